"""A run's rows, one line each, written as they are measured: a run that was cut off can go on.

The file is JSON lines: first what it ran on and how many rounds, then a raw row per line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .model import Row
from .report import result_json
from .rounds import Result, Track, compared


class Journal:
    """The rows measured so far, by name and interpreter."""

    def __init__(self, path: Path, machine: dict[str, str], rounds: int) -> None:
        self.path = path
        self.machine = machine
        self.rounds = rounds
        self._done: dict[tuple[str, str, int], dict[str, Any]] = {}
        if not path.exists():
            path.write_text(json.dumps({"machine": machine, "rounds": rounds}) + "\n")
            return
        head, *lines = path.read_text().splitlines()
        self.machine = json.loads(head)["machine"]
        if json.loads(head)["rounds"] != rounds:
            raise SystemExit(f"{path} has {json.loads(head)['rounds']} rounds a row, not {rounds}")
        for line in lines:
            entry = json.loads(line)
            self._done[entry["name"], entry["path"], entry["n"]] = entry["result"]

    def find(self, row: Row, python: str, n: int) -> Result | None:
        """The row if this file has it, judged anew by the goals of today."""
        saved = self._done.get((row.name, python, n))
        if saved is None:
            return None
        tracks = {}
        for variant in row.variants:
            entry = saved["variants"][variant.name]
            tracks[variant.name] = Track(
                variant,
                values=entry["rounds"],
                answers=entry["answers"],
                elapsed=entry["elapsed"],
                others=entry["others"],
                bystanders=entry["bystanders"],
                about=entry["about"],
                failure=entry["failure"],
                available=entry["available"],
            )
        comparisons = [compared(row, tracks, index) for index in range(len(row.goals))]
        return Result(row, python, tracks, comparisons, saved["seconds"])

    def add(self, result: Result, n: int) -> None:
        """Keeps a row that was just measured."""
        entry = result_json(result, raw=True)
        for name, track in result.tracks.items():
            entry["variants"][name]["available"] = track.available
        line = {"name": result.row.name, "path": result.python, "n": n, "result": entry}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
