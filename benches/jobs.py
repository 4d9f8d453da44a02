"""The job of row map: `python -m jobs {serial,threads,gorun,half K} FILE`, cwd benches/.

Reads lines, works on each in a library that releases the GIL, prints one number a line.
"""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

BLOCK = 16_384


def write_input(path: Path, n: int) -> None:
    """n lines, always the same ones."""
    path.write_text("".join(f"block {number}\n" for number in range(n)))


def pack(line: str) -> int:
    """Compresses a block that the line names: about a millisecond of native work."""
    block = random.Random(line).randbytes(BLOCK // 2).hex().encode()
    return zlib.crc32(zlib.compress(block, 9))


def results(how: str, lines: Iterable[str]) -> Iterable[int]:
    if how == "threads":
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(pack, lines))
    if how == "gorun":
        import gorun

        mapped: Iterable[int] = gorun.map(pack, lines, workers=2, on="thread")
        return mapped
    return map(pack, lines)


def main(how: str, *rest: str) -> None:
    *half, path = rest
    with Path(path).open() as file:
        lines: Iterable[str] = islice(file, int(half[0]), None, 2) if half else file
        sys.stdout.writelines(f"{number}\n" for number in results(how, lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
