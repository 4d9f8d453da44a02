"""A rate limiter with bursts: a channel of tokens, filled by a ticker.

Whoever wants to go on receives a token; with none left it waits for the next tick. A full bucket takes
no more, so that a quiet time saves up for a burst and no longer.
"""

import time

import gorun
from gorun import Chan, RecvChan, Ticker, go


def limiter(per_second: float, burst: int, stop: RecvChan[None]) -> RecvChan[None]:
    """A channel that gives `burst` tokens at once and then so many in a second."""
    tokens: Chan[None] = Chan(burst)
    for _ in range(burst):
        tokens.send(None)

    async def fill() -> None:
        with Ticker(1 / per_second) as ticker:
            while (await gorun.select_async(ticker.chan, stop)).index == 0:
                tokens.try_send(None)

    go(fill)
    return tokens.receiver()


async def main(requests: int) -> list[float]:
    """When each request went through, in seconds from the beginning."""
    stop: Chan[None] = Chan()
    tokens = limiter(200, burst=5, stop=stop.receiver())
    began, times = time.monotonic(), []

    async def request() -> None:
        await tokens.recv_async()
        times.append(time.monotonic() - began)

    for g in [go(request) for _ in range(requests)]:
        await g
    stop.close()
    return times


if __name__ == "__main__":
    times = gorun.run(main, 25)
    rest = times[-1] - times[4]
    print(f"{len(times)} requests: 5 at once, 20 more in {rest:.2f} s")
