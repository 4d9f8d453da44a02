"""Dining philosophers: five forks, five philosophers who need two each, and nobody starves or waits for ever.

A semaphore lets four sit down at a time, so one of them always finds both forks.
"""

import gorun
from gorun import Mutex, Semaphore, go

NAMES = ("Aristotle", "Kant", "Spinoza", "Marx", "Russell")


async def dine(name: str, left: Mutex, right: Mutex, seats: Semaphore, meals: int) -> str:
    for _ in range(meals):
        async with seats, left, right:
            await gorun.sleep_async(0.0005)  # eats
        await gorun.gosched_async()  # thinks
    return f"{name} ate {meals} times"


async def main(meals: int) -> list[str]:
    forks = [Mutex() for _ in NAMES]
    seats = Semaphore(len(NAMES) - 1)
    table = [
        go(dine, name, forks[i], forks[(i + 1) % len(forks)], seats, meals)
        for i, name in enumerate(NAMES)
    ]
    return [await g for g in table]


if __name__ == "__main__":
    print("\n".join(gorun.run(main, 20)))
