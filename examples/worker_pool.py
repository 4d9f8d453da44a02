"""A worker pool: so many workers, a bounded queue of jobs, results and errors, and an orderly end.

`submit` waits when the queue is full, so a fast producer is held up by slow workers. A job that fails
does not end its worker.
"""

from collections.abc import Callable
from typing import Self

import gorun
from gorun import Chan, WaitGroup

Job = Callable[[], int]


class Pool:
    """`workers` goroutines for jobs; `with` ends them when all is done."""

    def __init__(self, workers: int, queue: int) -> None:
        self._jobs: Chan[Job] = Chan(queue)
        self._workers = WaitGroup()
        self._mutex = gorun.Mutex()
        self.results: list[int] = []
        self.errors: list[Exception] = []
        for _ in range(workers):
            self._workers.go(self._work)

    def _work(self) -> None:
        for job in self._jobs:
            try:
                result = job()
            except Exception as error:
                with self._mutex:
                    self.errors.append(error)
            else:
                with self._mutex:
                    self.results.append(result)

    def submit(self, job: Job) -> None:
        self._jobs.send(job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._jobs.close()  # the workers drain the queue and end
        self._workers.wait()


def main() -> Pool:
    with Pool(workers=4, queue=8) as pool:
        for n in range(100):
            pool.submit(lambda n=n: 1000 // (n % 10))  # type: ignore[misc]
    return pool


if __name__ == "__main__":
    pool = main()
    print(f"{len(pool.results)} results, {len(pool.errors)} errors")
