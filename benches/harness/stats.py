"""Median, its 95 % interval and the verdict on a goal: order statistics, no assumption of shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import Literal

from .model import Goal

Verdict = Literal["failed", "missed", "undecided", "met", "report"]
Interval = tuple[float, float]


def median_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """The narrowest pair of order statistics that covers the median with at least `level`.

    The number of values below the median is binomial (n, 1/2), so from the k-th smallest to the
    k-th largest covers it with 1 - 2 P(fewer than k). Below six values no pair reaches 95 %: None.
    """
    n = len(values)
    ordered = sorted(values)
    outside, rank = 0.0, 0
    while rank < n // 2:
        outside += 2 * comb(n, rank) / 2**n
        if outside > 1 - level:
            break
        rank += 1
    return (ordered[rank - 1], ordered[n - rank]) if rank else None


@dataclass(frozen=True)
class Comparison:
    """A goal with what was measured; numbers are None where a variant did not run."""

    goal: Goal
    verdict: Verdict
    rounds: tuple[float, ...] = ()
    median: float | None = None
    interval: Interval | None = None
    best: float | None = None
    why: str = ""
    behind: bool = False
    """The rival is ahead for certain: the whole interval lies on its side of 1 : 1."""


def compare(goal: Goal, left: Sequence[float], right: Sequence[float]) -> Comparison:
    """Judge a goal by its rounds: `left[i]` and `right[i]` ran in the same round."""
    if goal.how == "alone":
        rounds, best = tuple(left), min(left)
    elif goal.how == "minus":
        rounds = tuple(a - b for a, b in zip(left, right, strict=True))
        best = min(left) - min(right)
    else:
        rounds = tuple(a / b for a, b in zip(left, right, strict=True))
        best = min(left) / min(right)
    interval = median_interval(rounds)
    return Comparison(
        goal,
        judge(goal, interval),
        rounds,
        median(rounds),
        interval,
        best,
        behind=is_behind(goal, interval),
    )


def judge(goal: Goal, interval: Interval | None) -> Verdict:
    """Met only if the whole interval meets the bound, missed only if none of it does."""
    if goal.at_most is None and goal.at_least is None:
        return "report"
    if interval is None:
        return "undecided"
    low, high = interval
    if goal.at_least is not None:
        low, high, bound = -high, -low, -goal.at_least
    else:
        assert goal.at_most is not None
        bound = goal.at_most
    if high <= bound:
        return "met"
    return "missed" if low > bound else "undecided"


def is_behind(goal: Goal, interval: Interval | None) -> bool:
    if interval is None or goal.how == "alone":
        return False
    even = 1.0 if goal.how == "over" else 0.0
    gorun_left = goal.left.startswith("gorun")
    if gorun_left == goal.right.startswith("gorun"):
        return False  # gorun beside itself, or rivals among themselves
    return interval[0] > even if gorun_left else interval[1] < even
