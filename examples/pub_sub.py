"""Publish and subscribe: each subscriber has a channel; closing one broadcasts the end to all.

Threads, goroutines and asyncio tasks subscribe alike. A subscriber that does not keep up misses
messages instead of holding the others up.
"""

import asyncio
import threading

import gorun
from gorun import Chan, RecvChan, go


class Topic:
    """What is published goes to all who have subscribed."""

    def __init__(self) -> None:
        self._mutex = gorun.Mutex()
        self._subscribers: list[Chan[str]] = []
        self._done: Chan[None] = Chan()
        self.done = self._done.receiver()
        """Closed at the end: everybody who waits for it wakes."""

    def subscribe(self, buffer: int = 16) -> RecvChan[str]:
        ch: Chan[str] = Chan(buffer)
        with self._mutex:
            self._subscribers.append(ch)
        return ch.receiver()

    def publish(self, message: str) -> int:
        """How many got it."""
        with self._mutex:
            return sum(ch.try_send(message) for ch in self._subscribers)

    def close(self) -> None:
        self._done.close()


def main() -> list[str]:
    topic, seen = Topic(), []

    async def listen(name: str, news: RecvChan[str]) -> None:
        while (got := await gorun.select_async(news, topic.done)).ok:
            seen.append(f"{name}: {got.value}")

    def listen_blocking(name: str, news: RecvChan[str]) -> None:
        while (got := gorun.select(news, topic.done)).ok:
            seen.append(f"{name}: {got.value}")

    def loop(name: str, news: RecvChan[str]) -> None:
        asyncio.run(listen(name, news))

    goroutine = go(listen, "goroutine", topic.subscribe())
    threads = [
        threading.Thread(target=listen_blocking, args=("thread", topic.subscribe())),
        threading.Thread(target=loop, args=("task", topic.subscribe())),
    ]
    for t in threads:
        t.start()
    for message in ("one", "two"):
        assert topic.publish(message) == 3
    while len(seen) < 6:
        gorun.sleep(0.001)
    topic.close()
    goroutine.result()
    for t in threads:
        t.join()
    return seen


if __name__ == "__main__":
    print("\n".join(sorted(main())))
