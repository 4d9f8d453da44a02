"""A heartbeat: a worker says that it is alive, a watcher starts another when it is silent for too long.

The beat is a channel of one place that is never waited for: a worker whose watcher is slow goes on. What
is silent is cancelled, whatever it waits for; the job that it held is done again.
"""

import gorun
from gorun import Chan, Goroutine, go

PERIOD = 0.02
SILENCE = 10 * PERIOD


async def work(jobs: list[str], done: list[str], beat: Chan[None]) -> None:
    """Does the jobs in order, and beats before each and while it waits."""
    while jobs:
        beat.try_send(None)
        if jobs[0] == "stuck":
            jobs[0] = "stuck no more"  # the second time it goes well
            await Chan[None]().recv_async()  # a lost answer: nobody will ever send
        for _ in range(3):
            await gorun.sleep_async(PERIOD / 2)
            beat.try_send(None)
        done.append(jobs.pop(0))


async def watch(jobs: list[str]) -> tuple[list[str], int]:
    """What was done, and how many workers it took."""
    done: list[str] = []
    workers = 0
    while jobs:
        workers += 1
        beat: Chan[None] = Chan(1)
        worker: Goroutine[None] = go(work, jobs, done, beat)
        alive = True
        while alive and not worker.done():
            try:
                alive = (await gorun.select_async(beat, worker, timeout=SILENCE)).index == 0
            except TimeoutError:
                alive = False
                worker.cancel("silent")
        await gorun.wait_async([worker])
        worker.exception()  # asked for: nobody else need hear of it
    return done, workers


if __name__ == "__main__":
    done, workers = gorun.run(watch, ["first", "stuck", "last"])
    print(f"{', '.join(done)}: {workers} workers")
