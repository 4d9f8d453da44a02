"""A pipeline: each stage receives from the one before it, and closes its channel when it is done.

Closing travels down the chain; a stage that is slow holds the others up, so nothing piles up.
"""

from collections.abc import Iterable

import gorun
from gorun import Chan, RecvChan, go

TEXT = "a channel has two ends and a goroutine at each of them"


def words(text: str) -> RecvChan[str]:
    """The source."""
    out: Chan[str] = Chan(4)

    async def body() -> None:
        for word in text.split():
            await out.send_async(word)
        out.close()

    go(body)
    return out.receiver()


def longer(source: RecvChan[str], than: int) -> RecvChan[str]:
    """A filter."""
    out: Chan[str] = Chan(4)

    async def body() -> None:
        async for word in source:
            if len(word) > than:
                await out.send_async(word)
        out.close()

    go(body)
    return out.receiver()


def shout(source: RecvChan[str]) -> RecvChan[str]:
    """A plain function is a stage too: this one may block."""
    out: Chan[str] = Chan(4)

    def body() -> None:
        for word in source:
            out.send(word.upper())
        out.close()

    go(body)
    return out.receiver()


async def main() -> Iterable[str]:
    return [word async for word in shout(longer(words(TEXT), than=3))]


if __name__ == "__main__":
    print(*gorun.run(main))
