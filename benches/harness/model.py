"""The words of the harness: a Row has Variants, a Variant gives Samples, Goals compare Variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Runtime = Literal["go", "gorun", "python"]
"""What a variant's worker process runs: the Go binary, Python with gorun, Python without."""


@dataclass(frozen=True)
class Sample:
    """One run of one variant, as its row function returns it."""

    ns: int
    """Elapsed time of the part that the row is about."""
    count: int
    """The counter that the bodies bumped; the harness raises unless it is what the row expects."""
    value: float | None = None
    """The result where it is no time per operation: bytes, milliseconds, percent."""


@dataclass(frozen=True)
class Variant:
    """One competitor in a row."""

    name: str
    run: Callable[[int], Sample] | None = None
    """Does the row n times. It imports what it needs inside, so that each worker holds one rival.
    None for Go, whose code is in benches/go."""
    runtime: Runtime = "python"
    procs: int = 2
    """GOMAXPROCS: gorun's and Go's."""
    go: str = ""
    """For Go: the name of the row in the Go binary."""


@dataclass(frozen=True)
class Goal:
    """A comparison of two variants, round by round, and the bound that its interval must keep.

    `over` is left : right, `minus` left - right, `alone` left's own value. Without a bound the
    comparison is only reported.
    """

    left: str
    right: str = ""
    how: Literal["over", "minus", "alone"] = "over"
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def compared(self) -> str:
        sign = {"over": " : ", "minus": " - ", "alone": ""}[self.how]
        return f"{self.left}{sign}{self.right}" + (f" ({self.note})" if self.note else "")

    @property
    def bound(self) -> str:
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return f">= {self.at_least:g}" if self.at_least is not None else "report"


@dataclass(frozen=True)
class Row:
    """One line of the table: what is done, how often, by whom, and what must come out."""

    name: str
    title: str
    n: int
    quick_n: int
    variants: tuple[Variant, ...]
    goals: tuple[Goal, ...]
    unit: str = "ns/op"
    fresh: bool = False
    """A new process for every sample (memory, idle CPU), ended without ceremony after it."""

    def variant(self, name: str) -> Variant:
        return next(v for v in self.variants if v.name == name)

    def value(self, sample: Sample) -> float:
        """A sample in the row's unit."""
        return sample.ns / sample.count if sample.value is None else sample.value


def go_variant(row: str, *, procs: int = 2, name: str = "go") -> Variant:
    return Variant(name, runtime="go", procs=procs, go=row)


def gorun_variant(run: Callable[[int], Sample], *, procs: int = 2, name: str = "gorun") -> Variant:
    return Variant(name, run, runtime="gorun", procs=procs)
