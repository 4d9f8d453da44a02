"""A request with a deadline: it asks several backends at once, and what is too slow is cancelled.

The deadline is set once, at the top, in a context that travels down. A backend that is cut cleans up; the
request answers in time with what it has. Whoever goes away cancels the same context by hand.
"""

import gorun
from gorun import Chan, Context, background, go

LATENCY = {"cache": 0.001, "store": 0.01, "archive": 60.0}
"""Backends, and the seconds until they answer."""


async def backend(name: str) -> str:
    """An answer of this backend; says so if it is cut."""
    try:
        await gorun.sleep_async(LATENCY[name])
    except gorun.Cancelled as cut:
        print(f"{name} was cut: {cut.reason}")
        raise
    return name


async def request(ctx: Context, names: list[str]) -> list[str]:
    """The answers that came before `ctx` ended."""
    answers: Chan[str] = Chan(len(names))

    async def ask(name: str) -> None:
        await answers.send_async(await backend(name))

    asked = [go(ask, name) for name in names]
    got: list[str] = []
    while len(got) < len(names):
        first = await gorun.select_async(answers, ctx.done)
        if first.index == 1:  # out of time, or nobody wants it any more
            break
        got.append(str(first.value))
    for g in asked:
        g.cancel(ctx.cause())
    await gorun.wait_async(asked)  # none outlives the request
    return got


async def main() -> None:
    with background().with_timeout(1.0) as ctx:
        print(f"in time: {', '.join(await request(ctx, list(LATENCY)))}")
    with background().with_cancel() as ctx:
        gorun.Timer(0.05, lambda: ctx.cancel("the client has gone"))
        print(f"then: {await request(ctx, ['archive'])}")


if __name__ == "__main__":
    gorun.run(main)
