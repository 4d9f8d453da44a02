"""The parallel map: lazy, in order, on goroutines; with an endless input, errors, and a progress.

python examples/parallel_map.py
"""

import itertools
import sys
import time
import zlib
from collections.abc import Iterator

import gorun


def packed_size(seed: int) -> int:
    """Work that lets go of the interpreter, so that threads run it in parallel on every build."""
    data = b"".join(n.to_bytes(4, "big") for n in range(seed, seed + 20_000))
    return len(zlib.compress(data))


def parse(text: str) -> int:
    """Work that may fail."""
    return int(text)


async def fetch(number: int) -> int:
    """An `async def` function: `workers` of them run at a time."""
    await gorun.sleep_async(0.01)
    return number * number


def main() -> Iterator[bool]:
    """Shows one thing after the other; each yields whether it went as it should."""
    began = time.perf_counter()
    sizes = list(gorun.map(packed_size, range(64), on="thread"))
    print(f"64 results in order, {time.perf_counter() - began:.2f} s")
    yield sizes == [packed_size(seed) for seed in range(64)]

    # An endless input: `buffer` bounds how far the map runs ahead of us.
    with gorun.map(packed_size, itertools.count(), buffer=8) as endless:
        first = list(itertools.islice(endless, 10))
    print(f"the first {len(first)} of an endless input")
    yield first == sizes[:10]

    # Errors in their places, ...
    words = ["1", "two", "3"]
    told = [str(result) for result in gorun.map(parse, words, errors="return")]
    print("errors in their places:", told)
    yield told[0::2] == ["1", "3"] and "two" in told[1]

    # ... or all together at the end, after all good results.
    good, bad = [], 0
    try:
        for number in gorun.map(parse, words, errors="collect"):
            good.append(number)
    except* ValueError as group:
        bad = len(group.exceptions)
    print(f"{len(good)} good results, then {bad} error")
    yield good == [1, 3] and bad == 1

    # A hundred at a time, and a callable that is told how far it has come.
    counts: list[int] = []
    squares = gorun.map(
        fetch, range(500), workers=100, progress=lambda done, _: counts.append(done)
    )
    yield sum(squares) == sum(n * n for n in range(500)) and counts[-1] == 500
    print("500 async items, 100 at a time")


if __name__ == "__main__":
    sys.exit(not all(list(main())))
