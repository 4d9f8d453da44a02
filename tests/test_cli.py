"""`python -m gorun`: the dispatch, and the main job, `python -m gorun map`."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import gorun
from gorun._cli import COMMANDS, jobs, main, mapjob

pytestmark = pytest.mark.no_matrix

FOUR = ["gorun.map", "plain loop", "ThreadPoolExecutor", "ProcessPoolExecutor"]


def command(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m gorun` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "gorun", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=55,
        env={**os.environ, **environment},
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with files of many sizes, in folders, and with some that are not to be found."""
    folder = tmp_path / "files"
    for number in range(40):
        path = folder / f"part{number % 3}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(range(256)) * number)
    for skipped in ("site-packages", "__pycache__"):
        (folder / skipped).mkdir()
        (folder / skipped / "no.py").write_text("not wanted")
    return folder


# ---- dispatch -----------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_alone_it_says_what_there_is(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    told = capsys.readouterr().out
    assert gorun.__version__ in told
    assert all(name in told for name in COMMANDS)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gorun {gorun.__version__}\n"


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mop", "--json"]) == 2
    assert "no command 'mop'" in capsys.readouterr().err


def test_as_a_program() -> None:
    assert command().returncode == 0
    assert command("mop").returncode == 2


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--workers", "0"], "'0' is no whole number from 1 up"),
        (["--rounds", "x"], "'x' is no whole number from 1 up"),
        (["--sleepers", "-1"], "--sleepers"),
        (["--unknown"], "--unknown"),
    ],
)
def test_a_bad_option_is_named(
    args: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["map", *args])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_folder_without_files_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["map", str(tmp_path)])
    assert ended.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err


# ---- the main job -------------------------------------------------------------------------------


def test_map_compares_all_four(files: Path) -> None:
    missing = files / "missing"
    result = command(
        *("map", "--job", "hash", files, missing, "--json"),
        *("--rounds", 2, "--sleepers", 2000, "--workers", 2),
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert list(told["variants"]) == FOUR
    assert all(len(v["seconds"]) == 2 for v in told["variants"].values())
    assert told["variants"]["gorun.map"]["time_to_ours"] == 1
    assert told["agree"] is True
    assert (told["files"], told["workers"], told["job"]) == (41, 2, "hash")
    assert told["bytes"] == 256 * sum(range(40))
    assert told["unreadable"] == {str(missing): "No such file or directory"}
    assert told["sleepers"]["count"] == told["sleepers"]["alive"] == 2000


def test_map_for_people(files: Path) -> None:
    result = command(
        *("map", "--job", "hash", files, files / "gone", "--rounds", 1, "--sleepers", 100)
    )
    assert result.returncode == 0, result.stderr
    for part in (*FOUR, "all 4 agree on 40 files", "gone: No such file", "100 goroutines asleep"):
        assert part in result.stdout
    assert "gorun.map, round 1 of 1" in result.stderr  # the bar


def test_map_without_sleepers(files: Path) -> None:
    result = command("map", "--job", "hash", files, "--rounds", 1, "--sleepers", 0)
    assert result.returncode == 0, result.stderr
    assert "asleep" not in result.stdout


def test_map_without_tqdm_draws_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutation: `progress` gives the label whether or not tqdm is there.
    monkeypatch.setitem(sys.modules, "tqdm", None)
    bar = mapjob.progress("files")
    assert list(gorun.map(abs, range(50), progress=bar)) == list(range(50))
    assert capsys.readouterr().err.endswith("\rfiles: 50 of 50 (100 %)\n")


def test_map_fails_when_one_finds_something_else(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutation: `main` gives 0.
    def run(paths: list[str], label: str) -> list[jobs.Digest]:
        return [jobs.digest(path) for path in paths]

    def wrong(paths: list[str], label: str) -> list[jobs.Digest]:
        return [jobs.digest(path)._replace(sha256="?") for path in paths]

    @contextmanager
    def variants(job: jobs.Job, workers: int, count: int) -> Iterator[list[mapjob.Variant]]:
        yield [
            mapjob.Variant("gorun.map", "", run),
            mapjob.Variant("plain loop", "", run),
            mapjob.Variant("liar", "", wrong),
        ]

    monkeypatch.setattr(mapjob, "variants", variants)
    assert main(["map", "--job", "hash", str(files), "--sleepers", "0", "--rounds", "2"]) == 1
    assert "THEY DISAGREE: liar found" in capsys.readouterr().out


def test_find_skips_packages_and_sorts(files: Path) -> None:
    found = mapjob.find([str(files)])
    assert len(found) == 40
    assert found == sorted(found)
    assert not any("not wanted" in Path(path).read_text(errors="replace") for path in found)


def test_find_takes_the_standard_library_by_default() -> None:
    found = mapjob.find([])
    assert os.__file__ in found
    assert not any("site-packages" in path for path in found)


def test_digest(tmp_path: Path) -> None:
    data = b"gorun" * 1000
    path = tmp_path / "file"
    path.write_bytes(data)
    expected: tuple[Any, ...] = (
        str(path),
        5000,
        len(zlib.compress(data)),
        hashlib.sha256(data).hexdigest(),
        "",
    )
    assert jobs.digest(str(path)) == expected


def test_parse(tmp_path: Path) -> None:
    """Nodes and different names are counted; what is no Python, or not there, is told.

    Mutation: names are counted each time they occur.
    """
    path = tmp_path / "file.py"
    path.write_text("a = a + b\n")
    # Module, Assign, Name + Store, BinOp, Name + Load, Add, Name + Load
    assert jobs.parse(str(path)) == (str(path), 10, 10, 2, "")
    path.write_text("a +\n")
    assert jobs.parse(str(path)).error.startswith("SyntaxError: invalid syntax")
    assert jobs.parse(str(tmp_path / "gone.py")).error == "No such file or directory"


@pytest.mark.parametrize("job", ["parse", "hash"])
def test_what_is_no_usual_file_is_left_out(tmp_path: Path, job: str) -> None:
    """A pipe that nobody writes to, a source too deep for the parser, a name of any bytes.

    Mutations: `read` does not look at the mode; `parse` lets MemoryError pass; `_print` is print.
    """
    for n in range(10):
        (tmp_path / f"{n}.py").write_text(f"a{n} = 1\n" * n)
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "deep.py").write_text("x = " + "-" * 50_000 + "1\n")
    os.symlink(b"/nowhere", os.fsencode(tmp_path) + b"/name\xff.py")
    result = command(
        *("map", tmp_path, "--job", job, "--rounds", 1, "--sleepers", 0, "--workers", 2),
        PYTHONIOENCODING="utf-8",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "pipe.py: not a regular file" in result.stdout
    assert "name\\udcff.py: No such file" in result.stdout
    deep = result.stdout.count("nested too deeply for the parser")
    assert deep == (job == "parse")
    assert f"all 4 agree on {11 - deep} files" in result.stdout


def test_map_parses_by_default(tmp_path: Path) -> None:
    """Python files alone, in processes where threads take turns; all four agree.

    Mutation: the default is "hash".
    """
    for n in range(30):
        (tmp_path / f"{n}.py").write_text(f"a{n} = 1\n" * n)
        (tmp_path / f"{n}.txt").write_text("no python\n")
    (tmp_path / "bad.py").write_text("(\n")
    result = command("map", tmp_path, "--json", "--rounds", 1, "--sleepers", 0, "--workers", 2)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["job"], told["files"], told["agree"]) == ("parse", 31, True)
    assert list(told["unreadable"]) == [str(tmp_path / "bad.py")]
    assert list(told["variants"]) == FOUR
    ours = "processes" if told["gil"] else "goroutines"
    assert told["variants"]["gorun.map"]["how"] == f"2 {ours}, with the progress bar"


def test_sleepers_are_asleep_inside_and_gone_after() -> None:
    # Mutation: `sleeping` cancels none.
    before = gorun.num_goroutine()
    with mapjob.sleeping(500) as crowd:
        assert gorun.num_goroutine() == before + 500
        assert gorun.stats().waiting >= 500
    assert crowd.alive == 500
    assert gorun.num_goroutine() == before


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="mended in CPython 3.13")
def test_one_thread_parses_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Seen on 3.11: a switch of threads inside `ast.parse` ends in a SystemError.

    Mutation: `parse` calls `ast.parse` without its turn.
    """
    file, whole, seen = tmp_path / "a.py", ast.parse, []
    file.write_text("x = y")

    def watched(data: bytes) -> ast.Module:
        seen.append(jobs._TURN.locked())
        return whole(data)

    monkeypatch.setattr(jobs.ast, "parse", watched)
    assert jobs.parse(str(file)).names == 2
    assert seen == [True]
