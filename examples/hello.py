"""Hello, goroutines: start a few, wait for them, take what they give.

python examples/hello.py
"""

import sys
import time

import gorun


async def greet(name: str) -> str:
    """An async goroutine: cheap, and parked while it sleeps."""
    await gorun.sleep_async(0.01)
    return f"hello, {name}"


def shout(text: str) -> str:
    """A plain function is a goroutine too, and may block."""
    time.sleep(0.01)
    return text.upper()


async def main() -> list[str]:
    """Runs in a goroutine of its own, and waits for others by awaiting them."""
    greetings = [gorun.go(greet, name) for name in ("gopher", "python", "world")]
    loud = gorun.go(shout, "goodbye")
    return [await g for g in greetings] + [await loud]


if __name__ == "__main__":
    lines = gorun.run(main)
    print("\n".join(lines))
    expected = ["hello, gopher", "hello, python", "hello, world", "GOODBYE"]
    sys.exit(lines != expected)
