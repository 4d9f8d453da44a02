"""The jobs of rows map and parse: `python -m jobs [parse-]HOW FILE`, cwd benches/.

HOW is serial, threads (two plain ones for parse), gorun, half K, and for parse also pool. Reads
lines, works on each (map: in a library that releases the GIL, parse: in pure Python), prints one
number a line.
"""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

BLOCK = 16_384


def write_input(path: Path, n: int) -> None:
    """n lines, always the same ones."""
    path.write_text("".join(f"block {number}\n" for number in range(n)))


def pack(line: str) -> int:
    """Compresses a block that the line names: about a millisecond of native work."""
    block = random.Random(line).randbytes(BLOCK // 2).hex().encode()
    return zlib.crc32(zlib.compress(block, 9))


def parse(line: str) -> int:
    """Counts the nodes of a file of Python."""
    import ast
    import warnings

    warnings.simplefilter("ignore")
    try:
        return sum(1 for _ in ast.walk(ast.parse(Path(line.strip()).read_bytes())))
    except SyntaxError:
        return 0


def parsed(how: str, lines: Iterable[str]) -> Iterable[int]:
    if how == "parse-gorun":
        import gorun

        mapped: Iterable[int] = gorun.map(parse, lines, workers=2)
        return mapped
    if how == "parse-pool":
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        # The chunk size that was best here of 1, 2, 4, 8, 16.
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
            return list(pool.map(parse, lines, chunksize=4))
    if how == "parse-threads":
        from concurrent.futures import ThreadPoolExecutor

        every = list(lines)
        with ThreadPoolExecutor(2) as threads:  # each has one call: its half
            counts = threads.map(lambda half: list(map(parse, half)), (every[0::2], every[1::2]))
            return list(chain(*counts))
    return map(parse, lines)


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
    run = parsed if how.startswith("parse-") else results
    with Path(path).open() as file:
        lines: Iterable[str] = islice(file, int(half[0]), None, 2) if half else file
        sys.stdout.writelines(f"{number}\n" for number in run(how, lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
