"""Fan-out: several goroutines receive from one channel, and each value goes to one of them.

Results come back on another channel with their number, so that the order of the input can be restored.
"""

import time

import gorun
from gorun import Chan, WaitGroup, go


def slow_square(n: int) -> int:
    time.sleep(0.005)  # somebody else's library, which blocks
    return n * n


async def main(count: int, workers: int) -> list[int]:
    work: Chan[int] = Chan()
    done: Chan[tuple[int, int]] = Chan(workers)
    busy = WaitGroup()

    def worker() -> None:
        for n in work:
            done.send((n, slow_square(n)))

    async def feed() -> None:
        await work.send_many_async(range(count))
        work.close()
        await busy
        done.close()

    for _ in range(workers):
        busy.go(worker)
    go(feed)
    return [square for _, square in sorted([pair async for pair in done])]


if __name__ == "__main__":
    squares = gorun.run(main, 40, 8)
    print(f"{len(squares)} squares, the last is {squares[-1]}")
