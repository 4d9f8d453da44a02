"""The concurrent prime sieve: a chain of goroutines, each of which lets through what it cannot divide.

Go's classic (golang.org/doc/play/sieve.go). Run it with the number of primes: python prime_sieve.py 50
"""

import sys

import gorun
from gorun import Chan, RecvChan, SendChan, go


async def generate(out: SendChan[int]) -> None:
    """Sends 2, 3, 4, ... until nobody wants more."""
    n = 2
    while True:
        await out.send_async(n)
        n += 1


async def divide(numbers: RecvChan[int], out: SendChan[int], prime: int) -> None:
    """Copies what `prime` does not divide."""
    async for n in numbers:
        if n % prime:
            await out.send_async(n)


async def main(count: int) -> list[int]:
    """Puts one more goroutine into the chain for each prime found."""
    numbers: Chan[int] = Chan()
    chain = [go(generate, numbers.sender())]
    primes = []
    for _ in range(count):
        prime = await numbers.recv_async()
        primes.append(prime)
        rest: Chan[int] = Chan()
        chain.append(go(divide, numbers.receiver(), rest.sender(), prime))
        numbers = rest
    for g in chain:
        g.cancel()
    await gorun.wait_async(chain)
    return primes


if __name__ == "__main__":
    found = gorun.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 30)
    print(f"{len(found)} primes, the last is {found[-1]}")
