"""The code in README.md runs, and does what the text beside it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_matrix

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_there_are_blocks() -> None:
    assert BLOCKS


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_block(block: str) -> None:
    got = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert got.returncode == 0, got.stderr
    assert got.stderr == ""
    if "squares" in block:
        assert got.stdout == f"done {sum(n * n for n in range(10_000))}\n"


def test_make_verbs_exist() -> None:
    makefile = (README.parent / "Makefile").read_text()
    verbs = set(re.findall(r"\bmake ([a-z][a-z-]*)", README.read_text()))
    verbs |= set(re.findall(r"lists the rest: ([a-z, ]+)", README.read_text())[0].split(", "))
    for verb in verbs:
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb


PAGES = sorted((README.parent / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[p.stem for p in PAGES])
def test_page(page: Path) -> None:
    # The blocks of a page are one program: later ones use what earlier ones made.
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    got = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert got.returncode == 0, got.stderr
    assert got.stderr == ""


def test_links_lead_somewhere() -> None:
    pages = [*README.parent.glob("*.md"), *PAGES]
    for page in pages:
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([\w./-]+)\)", prose):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
