"""`gorun.distributed`, and `dask.compute(scheduler=gorun.Executor())`: with the real packages.

Dask on a real LocalCluster of two processes. Ray is opt-in (`-m slow` with Ray installed): it takes
seconds to start and listens on more than the loopback address.
"""

from __future__ import annotations

import os
import random
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    pytest.skip("requirements/others.txt is not for free-threaded builds", allow_module_level=True)

import dask
import distributed

import gorun
import gorun.distributed

# The cluster's threads, files and processes are its own affair, and last for the module.
pytestmark = [pytest.mark.no_matrix, pytest.mark.leaky_ok, pytest.mark.filterwarnings("default")]

LONG = 60.0


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = str(tmp_path_factory.mktemp("dask"))
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=folder,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def on(client: Any) -> Any:
    return gorun.distributed.dask_executor(client)


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_dask_compute(kind: Any) -> None:
    """Dask's own scheduler takes our executors, with their number of workers.

    Mutation: an executor without `_max_workers`, or futures that dask cannot wait for.
    """
    with gorun.Executor(2, on=kind) as executor:
        total = dask.delayed(sum)([dask.delayed(pow)(n, 2) for n in range(50)])
        assert total.compute(scheduler=executor) == sum(n * n for n in range(50))


def test_map_on_dask(on: Any) -> None:
    """Results in order from both workers, of a function that no worker can import.

    Mutation: pickle the function by its name.
    """
    seven = 7
    got = list(gorun.map(lambda n: (n * seven, os.getpid()), range(2000), on=on))
    assert [value for value, _ in got] == [n * 7 for n in range(2000)]
    assert os.getpid() not in {pid for _, pid in got}


def test_workers_and_progress(on: Any) -> None:
    """The cluster says how many workers it has; progress counts items.

    Mutation: `workers_of` that asks for `_max_workers` only.
    """
    from gorun._map.executors import workers_of

    assert workers_of(on) == 2
    seen: list[Any] = []
    assert (
        len(list(gorun.map(abs, range(500), on=on, progress=lambda *now: seen.append(now)))) == 500
    )
    assert seen[-1] == (500, 500)


def test_chunks_take_a_fraction_of_a_second(on: Any) -> None:
    """Short items do not cost a task each: far fewer tasks than items.

    Mutation: one item per task.
    """
    tasks: set[str] = set()

    def where(_: int) -> str:
        return str(distributed.get_worker().get_current_task())

    tasks.update(gorun.map(where, range(3000), on=on))
    assert len(tasks) < 300


def test_each_call_runs(on: Any, client: Any) -> None:
    """Equal items are not one call, neither with our executor nor with Dask's default one.

    Mutation: leave the token out of the chunks.
    """
    for executor in (on, client.get_executor()):
        for _ in range(2):
            got = list(gorun.map(lambda _: random.random(), [0] * 20, on=executor, chunk=1))
            assert len(set(got)) == 20


def test_errors_on_dask(on: Any) -> None:
    """An item's error is its own, with the worker's traceback.

    Mutation: an error that fails its chunk.
    """

    def fail(n: int) -> int:
        if n == 5:
            raise KeyError(n)
        return n

    got = list(gorun.map(fail, range(10), on=on, chunk=10, errors="return"))
    assert [*got[:5], *got[6:]] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert isinstance(got[5], KeyError)
    assert "in fail" in getattr(got[5].__cause__, "tb", "")


def test_lost_workers_are_the_engines_affair(on: Any, tmp_path: Path) -> None:
    """A worker that dies once: Dask runs its chunk again. One that dies each time: WorkerDied.

    Mutation: `_lost` without KilledWorker.
    """

    def dies_once(n: int) -> int:
        if n == 3 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(9)
        return n

    def dies(n: int) -> int:
        if n == 3:
            time.sleep(0.2)
            os._exit(9)
        return n

    assert list(gorun.map(dies_once, range(10), on=on, chunk=2)) == list(range(10))
    got = list(gorun.map(dies, range(8), on=on, chunk=2, errors="return"))
    assert got[:2] == [0, 1]
    for n, value in enumerate(got):  # Dask gives up what stood in line behind the killer, too
        if n in (2, 3) or value != n:
            assert isinstance(value, gorun.WorkerDied)
            assert value.items == (n - n % 2, n - n % 2 + 1)


def test_bad_arguments(client: Any) -> None:
    """What is no client is named, and `pure=True` is refused.

    Mutation: hand `pure` on.
    """
    with pytest.raises(TypeError, match=r"client must be.*5"):
        gorun.distributed.dask_executor(5)
    with pytest.raises(ValueError, match="pure=True"):
        gorun.distributed.dask_executor(client, pure=True)


@pytest.mark.slow
def test_ray(tmp_path: Path) -> None:
    """The same map on Ray, where that is installed.

    Mutation: a RayExecutor that waits for references in the arguments.
    """
    ray = pytest.importorskip("ray", reason="opt-in: pip install ray")
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, logging_level="ERROR",
        _temp_dir=str(tmp_path),
    )  # fmt: skip
    try:
        with gorun.distributed.RayExecutor(max_retries=0) as on:
            assert on._max_workers == 2
            seven = 7
            assert list(gorun.map(lambda n: n * seven, range(500), on=on)) == [
                n * 7 for n in range(500)
            ]
            got = list(gorun.map(lambda n: 1 // n, [1, 0, 2], on=on, chunk=3, errors="return"))
            assert (got[0], got[2]) == (1, 0)
            assert isinstance(got[1], ZeroDivisionError)
            error = on.submit(divmod, 1, 0).exception(LONG)
            assert isinstance(error, ZeroDivisionError)
            got = list(
                gorun.map(lambda n: os._exit(9) if n == 2 else n, range(4), on=on, chunk=1,
                          errors="return")
            )  # fmt: skip
            assert [got[0], got[1], got[3]] == [0, 1, 3]
            assert isinstance(got[2], gorun.WorkerDied)
    finally:
        ray.shutdown()
