"""`make bench`: measure gorun beside Go and beside Python's own ways, and say what is met.

python benches/run.py [--python PATH]... [--rows a,b] [--rounds N] [--quick] [--list] [--write] [--resume FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from harness import machine, report
from harness.proc import BENCHES, build_go, compile_package
from harness.rounds import Result, measure
from harness.saved import Journal
from rows import ROWS, find

FULL_ROUNDS = 15
QUICK_ROUNDS = 3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--python",
        action="append",
        metavar="PATH",
        type=os.path.abspath,  # workers have a folder of their own
        help="an interpreter to measure, may be repeated (default: this one)",
    )
    parser.add_argument("--rows", help="only these rows, by name, with commas")
    parser.add_argument("--rounds", type=int, help=f"rounds per row (default {FULL_ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="small and few: does it run at all?")
    parser.add_argument("--limit", type=float, default=300, help="seconds that a sample may take")
    parser.add_argument("--list", action="store_true", help="print the rows and their goals")
    parser.add_argument(
        "--write", action="store_true", help="write RESULTS.md after a partial run too"
    )
    parser.add_argument(
        "--resume",
        metavar="FILE",
        type=Path,
        help="go on with a run that was cut off: keep the rows in results/<time>.jsonl, measure the rest",
    )
    return parser.parse_args()


def main() -> int:
    args = arguments()
    rows = [find(name) for name in args.rows.split(",")] if args.rows else list(ROWS)
    if args.list:
        for row in rows:
            goals = ", ".join(f"{goal.compared} {goal.bound}" for goal in row.goals)
            print(f"{row.name:<16}{row.title}\n{'':<16}{goals}")
        return 0
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else FULL_ROUNDS)
    folder = BENCHES / "results"
    folder.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    journal = Journal(args.resume or folder / f"{stamp}.jsonl", machine.describe(), rounds)
    build_go()
    pythons = args.python or [sys.executable]
    for python in pythons:
        compile_package(python)
    results: list[Result] = []
    for row in rows:
        for python in pythons:
            n = row.quick_n if args.quick else row.n
            result = journal.find(row, python, n)
            if result is None:
                result = measure(row, python, rounds=rounds, n=n, limit=args.limit)
                journal.add(result, n)
            results.append(result)
            print(report.terminal(result), flush=True)
    full = not args.rows and not args.quick and rounds >= FULL_ROUNDS
    save(results, journal, full=full or args.write)
    failures = [t for r in results for t in r.tracks.values() if t.failure and t.available]
    return 1 if failures else 0


def save(results: list[Result], journal: Journal, *, full: bool) -> None:
    """The raw rounds beside the journal; after a full run latest.json and RESULTS.md too."""
    about, rounds = journal.machine, journal.rounds
    outputs = {journal.path.with_suffix(".json"): True}
    if full:
        outputs[BENCHES / "results" / "latest.json"] = False
        (BENCHES / "RESULTS.md").write_text(report.markdown(results, about, rounds))
    for path, raw in outputs.items():
        data = report.as_json(results, about, rounds, raw=raw)
        path.write_text(json.dumps(data, indent=1) + "\n")
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
