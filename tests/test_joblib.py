"""`gorun.joblib`: joblib's own promises, kept by gorun's workers. With the real joblib."""

from __future__ import annotations

import multiprocessing
import os
import sysconfig
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    # requirements/others.txt is not for them; where joblib is there all the same, it has to work.
    pytest.importorskip("joblib")

from joblib import Parallel, delayed, parallel_config

import gorun.joblib

pytestmark = pytest.mark.no_matrix

LONG = 30.0


@pytest.fixture(autouse=True, params=["process", "thread"])
def on(request: pytest.FixtureRequest) -> Iterator[str]:
    """Everything runs on both kinds of workers."""
    gorun.joblib.register()
    with parallel_config(backend="gorun", on=request.param):
        yield request.param


def where(_: int) -> tuple[int, str]:
    return os.getpid(), threading.current_thread().name


def test_results(on: str) -> None:
    """In order, from gorun's workers: processes or threads, as said.

    Mutation: `configure` that always takes threads.
    """
    assert Parallel(n_jobs=2)(delayed(pow)(n, 2) for n in range(500)) == [n * n for n in range(500)]
    seen = Parallel(n_jobs=2)(delayed(where)(n) for n in range(20))
    if on == "process":
        assert os.getpid() not in {pid for pid, _ in seen}
    else:
        assert {pid for pid, _ in seen} == {os.getpid()}
        assert {name.rpartition("_")[0] for _, name in seen} == {"joblib"}


@pytest.mark.parametrize("kind", ["generator", "generator_unordered"])
def test_generators(on: str, kind: str) -> None:
    """Results come as they are ready, in order or not.

    Mutation: `supports_retrieve_callback = False`.
    """
    results = Parallel(n_jobs=2, return_as=kind)(delayed(abs)(-n) for n in range(100))
    values = list(results)
    assert (sorted(values) if kind == "generator_unordered" else values) == list(range(100))


def test_generator_left_early(on: str) -> None:
    """Nothing is left behind (the leak check sees workers).

    Mutation: `submit` without the callback.
    """
    results = Parallel(n_jobs=2, return_as="generator")(delayed(abs)(-n) for n in range(100))
    assert next(results) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # joblib says what was for nothing, if much
        results.close()


def test_workers_end_with_the_call(on: str) -> None:
    """A `Parallel` that is kept keeps no workers.

    Mutation: `terminate` that keeps the executor.
    """
    parallel = Parallel(n_jobs=2)
    assert parallel(delayed(abs)(n) for n in range(10)) == list(range(10))
    assert parallel._backend._executor is None


def test_errors(on: str) -> None:
    """The call's own error, and the next `Parallel` works.

    Mutation: `abort_everything` that leaves the executor.
    """
    with pytest.raises(ZeroDivisionError):
        Parallel(n_jobs=2)(delayed(divmod)(1, n) for n in (1, 0, 2))
    with Parallel(n_jobs=2) as parallel:
        with pytest.raises(ZeroDivisionError):
            parallel(delayed(divmod)(1, n) for n in (1, 0, 2))
        assert parallel(delayed(abs)(n) for n in (-1, -2)) == [1, 2]


def test_timeout(on: str) -> None:
    """A batch that takes too long is a TimeoutError, and processes are ended.

    Mutation: `abort_everything` without `kill_workers` (the exit waits for the sleepers).
    """
    sleep = gorun.sleep if on == "thread" else time.sleep
    with pytest.raises(multiprocessing.TimeoutError):  # joblib's choice
        Parallel(n_jobs=2, timeout=0.2)(delayed(sleep)(LONG) for _ in range(2))


def test_nested(on: str) -> None:
    """A `Parallel` inside a call is joblib's affair, and works.

    Mutation: a nested backend of none.
    """

    def inner(n: int) -> list[int]:
        values: list[int] = Parallel(n_jobs=2)(delayed(pow)(n, k) for k in range(3))
        return values

    assert Parallel(n_jobs=2)(delayed(inner)(n) for n in range(3)) == [
        [1, n, n * n] for n in range(3)
    ]


def test_lambdas_and_arrays(on: str) -> None:
    """Closures travel, and buffers of any size.

    Mutation: pickle in place of cloudpickle.
    """
    seven = 7
    assert Parallel(n_jobs=2)(delayed(lambda n: n * seven)(n) for n in range(5)) == [
        n * 7 for n in range(5)
    ]
    blocks = [bytes([n]) * 1_000_000 for n in range(4)]
    assert Parallel(n_jobs=2)(delayed(len)(b) for b in blocks) == [1_000_000] * 4


@pytest.mark.parametrize(("n_jobs", "expected"), [(1, 1), (None, 1), (3, 3), (-10_000, 1)])
def test_n_jobs(on: str, n_jobs: Any, expected: int) -> None:
    """As with joblib's own backends; 0 is an error.

    Mutation: count down from 0.
    """
    backend = gorun.joblib.Backend(on=on)
    assert backend.effective_n_jobs(n_jobs) == expected
    assert backend.effective_n_jobs(-1) >= 1
    with pytest.raises(ValueError, match="n_jobs == 0"):
        backend.effective_n_jobs(0)
    assert Parallel(n_jobs=n_jobs)(delayed(abs)(n) for n in (-1, -2)) == [1, 2]


def omp_threads() -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def test_inner_threads() -> None:
    """`inner_max_num_threads` holds in the workers, whatever the environment says.

    Mutation: `_Executor` without `_inner_threads`.
    """
    gorun.joblib.register()
    with parallel_config(backend="gorun", on="process", inner_max_num_threads=3):
        found = Parallel(n_jobs=2)(delayed(omp_threads)() for _ in range(4))
    assert found == ["3"] * 4
    with (
        pytest.raises(AssertionError, match="inner_max_num_threads"),
        parallel_config(backend="gorun", on="thread", inner_max_num_threads=3),
    ):
        pass


def test_bad_on() -> None:
    """The value is named.

    Mutation: no check.
    """
    with pytest.raises(ValueError, match=r"on must be.*'fibre'"):
        gorun.joblib.Backend(on="fibre")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.leaky_ok  # threads of OpenMP
def test_scikit_learn(on: str) -> None:
    """A search over parameters with scikit-learn, where it is installed (opt-in: heavy).

    Mutation: an `effective_n_jobs` of 0.
    """
    pytest.importorskip("sklearn", reason="opt-in: pip install scikit-learn")
    from sklearn.datasets import load_iris
    from sklearn.model_selection import GridSearchCV
    from sklearn.tree import DecisionTreeClassifier

    x, y = load_iris(return_X_y=True)
    search = GridSearchCV(
        DecisionTreeClassifier(random_state=0), {"max_depth": [1, 2, 3]}, n_jobs=2
    )
    assert search.fit(x, y).best_score_ > 0.9
