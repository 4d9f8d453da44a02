"""Fan-in: what several producers send arrives on one channel; it is closed when the last one has ended."""

import gorun
from gorun import Chan, RecvChan, WaitGroup, go


async def producer(name: str, count: int, out: Chan[str]) -> None:
    for n in range(count):
        await out.send_async(f"{name}{n}")


def fan_in(*counts: int) -> RecvChan[str]:
    """One goroutine per producer, and one that waits for all of them."""
    out: Chan[str] = Chan()
    producers = WaitGroup()
    for letter, count in zip("abcdefgh", counts, strict=False):
        producers.go(producer, letter, count, out)

    async def close() -> None:
        await producers
        out.close()

    go(close)
    return out.receiver()


async def main() -> list[str]:
    return [message async for message in fan_in(3, 1, 4, 2)]


if __name__ == "__main__":
    messages = gorun.run(main)
    print(f"{len(messages)} messages from 4 producers: {' '.join(sorted(messages))}")
