"""Results as JSON (raw rounds), as lines on the terminal and as benches/RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from statistics import median
from typing import Any

from .rounds import Result, Track
from .stats import Comparison

QUIET = 0.1
"""Cores that others may keep busy before a run is called noisy."""

SECTIONS = (
    ("Failed", "A variant did not run, so nothing is known."),
    ("Lost: the goal is missed", "The whole interval lies beyond the bound."),
    ("Undecided", "The interval straddles the bound, or there were fewer than six rounds."),
    (
        "Behind the rival, within the goal",
        "Met or without a goal, but certainly slower than the rival.",
    ),
    ("Met", "The whole interval keeps the bound."),
    ("Reported", "No goal."),
)


def section(comparison: Comparison) -> int:
    """Which of SECTIONS a comparison belongs to: what we lose comes first."""
    order = {"failed": 0, "missed": 1, "undecided": 2}
    if comparison.verdict in order:
        return order[comparison.verdict]
    if comparison.behind:
        return 3
    return 4 if comparison.verdict == "met" else 5


def number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def interval(comparison: Comparison) -> str:
    if comparison.interval is None:
        return "-"
    return " .. ".join(map(number, comparison.interval))


def python_label(result: Result) -> str:
    """Such as 3.11.7 or 3.13.15t (free-threaded)."""
    for track in result.tracks.values():
        if "gil" in track.about:
            return f"{track.about['version']}{'' if track.about['gil'] else 't'}"
    return result.python


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    def cells(words: Iterable[str]) -> str:
        return "| " + " | ".join(w.replace("|", "\\|") for w in words) + " |"

    head = list(head)
    return [cells(head), cells("-" for _ in head), *map(cells, lines), ""]


def comparison_cells(result: Result, comparison: Comparison) -> list[str]:
    if comparison.verdict == "failed":
        figures = [comparison.why[:160], "-", "-"]
    else:
        figures = [number(comparison.median), interval(comparison), number(comparison.best)]
    goal = comparison.goal
    unit = "x" if goal.how == "over" else result.row.unit
    others = f"{result.cores('others'):.2f}"
    label = python_label(result)
    return [result.row.name, label, goal.compared, *figures, unit, goal.bound, others]


HEAD = ("row", "python", "compared", "median", "95 %", "best", "in", "goal", "others")


def terminal(result: Result) -> str:
    """What is printed when a row is done."""
    where = f"[{python_label(result)}, {result.seconds:.0f} s]"
    lines = [f"{result.row.name}: {result.row.title} {where}{noise(result)}"]
    for track in result.tracks.values():
        lines.append(f"  {track.variant.name:<16}{track_text(track, result.row.unit)}")
    for comparison in result.comparisons:
        figures = "{3} [{4}] best {5} {6}, goal {7}: ".format(*comparison_cells(result, comparison))
        if comparison.verdict == "failed":
            figures = f"goal {comparison.goal.bound}: "
        lines.append(f"    {comparison.goal.compared:<24} {figures}{comparison.verdict}")
    return "\n".join(lines)


def track_text(track: Track, unit: str) -> str:
    if track.failure:
        return track.failure.strip().splitlines()[-1]
    text = f"{number(median(track.values))} {unit}, best {number(min(track.values))}"
    counters = ", ".join(f"{name} {number(value)}" for name, value in track.counters().items())
    return f"{text}  ({counters})" if counters else text


def markdown(results: list[Result], machine: dict[str, str], rounds: int) -> str:
    """The whole of RESULTS.md."""
    lines = ["# Benchmarks: the latest run", ""]
    lines += [
        "Written by `make bench`; benches/README.md says how it is measured. `others`: cores that",
        "were busy with other things meanwhile; that flatters whoever needs one core only.",
        "",
    ]
    lines += table(("what", "value"), (machine | conditions(results, rounds)).items())
    judged = [(result, c) for result in results for c in result.comparisons]
    for index, (title, meaning) in enumerate(SECTIONS):
        chosen = [comparison_cells(r, c) for r, c in judged if section(c) == index]
        if chosen:
            lines += [f"## {title}", "", meaning, "", *table(HEAD, chosen)]
    lines += ["## Every variant", "", "Median and best of the rounds.", ""]
    lines += table(("row", "python", "variant", "median", "best", "unit"), variant_lines(results))
    lines += ["## gorun's counters", "", "Per sample, the median over the rounds.", ""]
    lines += ["`inexact`: the share of rounds in which lent Ps made `stats().ps` incomplete.", ""]
    head = ("row", "python", "variant", "runs", "steals", "parks", "hand-offs", "inexact")
    lines += table(head, counter_lines(results))
    lines += ["## What the rows do", ""]
    titles = {result.row.name: f"{result.row.title} (n = {result.row.n:,})" for result in results}
    return "\n".join(lines + table(("row", "what"), titles.items())).rstrip() + "\n"


def conditions(results: list[Result], rounds: int) -> dict[str, str]:
    """Versions, and how quiet the machine was."""
    tracks = [track for result in results for track in result.tracks.values()]

    def versions(runtime: str, key: str) -> str:
        found = (
            str(t.about[key]) for t in tracks if t.variant.runtime == runtime and key in t.about
        )
        return ", ".join(dict.fromkeys(found)) or "-"

    others = [result.cores("others") for result in results]
    noisy = f" **NOISY** (above {QUIET:g})" if max(others) > QUIET else ""
    return {
        "python": ", ".join(dict.fromkeys(python_label(result) for result in results)),
        "gorun": versions("gorun", "gorun"),
        "go": versions("go", "version"),
        "rounds": f"{rounds}, after one for warming up",
        "cores busy with other things": spread(others) + noisy,
        "cores busy in waiting workers": spread([result.cores("bystanders") for result in results]),
    }


def noise(result: Result) -> str:
    """A warning, if others used so much of the machine that the figures say little."""
    cores = result.cores("others")
    return f" NOISY: {cores:.2f} cores were busy with other things" if cores > QUIET else ""


def spread(values: list[float]) -> str:
    return f"{median(values):.2f} in the median row, {max(values):.2f} in the worst"


def variant_lines(results: list[Result]) -> Iterable[list[str]]:
    for result in results:
        for track in result.tracks.values():
            known = not track.failure
            figures = [median(track.values), min(track.values)] if known else [None, None]
            unit = result.row.unit if known else "failed" if track.available else "not available"
            yield [
                result.row.name,
                python_label(result),
                track.variant.name,
                *map(number, figures),
                unit,
            ]


def counter_lines(results: list[Result]) -> Iterable[list[str]]:
    for result in results:
        for track in result.tracks.values():
            if counters := track.counters():
                label = python_label(result)
                values = map(number, counters.values())
                yield [result.row.name, label, track.variant.name, *values]


def as_json(
    results: list[Result], machine: dict[str, str], rounds: int, *, raw: bool
) -> dict[str, Any]:
    """Everything that was measured; without `raw` only what the tables say."""
    return {
        "machine": machine | conditions(results, rounds),
        "rows": [result_json(result, raw=raw) for result in results],
    }


def result_json(result: Result, *, raw: bool) -> dict[str, Any]:
    comparisons = []
    for comparison in result.comparisons:
        entry = asdict(comparison)
        if not raw:
            del entry["rounds"]
        comparisons.append(entry)
    variants: dict[str, Any] = {}
    for name, track in result.tracks.items():
        entry = {"about": track.about, "failure": track.failure, "counters": track.counters()}
        if track.values:
            entry |= {"median": median(track.values), "best": min(track.values)}
        if raw:
            entry |= {"rounds": track.values, "answers": track.answers}
            entry |= {"elapsed": track.elapsed, "others": track.others}
            entry |= {"bystanders": track.bystanders}
        variants[name] = entry
    return {
        "row": result.row.name,
        "title": result.row.title,
        "unit": result.row.unit,
        "python": python_label(result),
        "seconds": result.seconds,
        "others": result.cores("others"),
        "variants": variants,
        "comparisons": comparisons,
    }
