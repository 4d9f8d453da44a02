"""The tables "what takes the place of what" in docs/from-*.md: each row stands in a program of its page.

tests/test_readme.py runs the programs.
"""

from __future__ import annotations

import inspect
import io
import keyword
import re
import tokenize
from pathlib import Path

import pytest

import gorun

pytestmark = pytest.mark.no_matrix

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = ["from-go", "from-asyncio", "from-threads"]

PUBLIC = {*gorun.__all__, "map", "map_async"}
for _thing in [getattr(gorun, name) for name in gorun.__all__]:
    if inspect.isclass(_thing):
        PUBLIC |= {name for name in dir(_thing) if not name.startswith("_")}
PUBLIC -= set(dir(tuple)) | set(dir(BaseException))


def rows(page: str) -> list[tuple[str, str]]:
    """The two columns of a page's tables."""
    text = (DOCS / f"{page}.md").read_text()
    found = re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE)
    return [row for row in found if "`" in row[0] + row[1]]


def tokens(page: str) -> tuple[set[str], str]:
    """The names that a page's programs use, and their comments."""
    text = (DOCS / f"{page}.md").read_text()
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    names, comments = set(), []
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            names.add(token.string)
        elif token.type == tokenize.COMMENT:
            comments.append(token.string)
    return names, "\n".join(comments)


def spans(cell: str) -> str:
    return " ".join(re.findall(r"`([^`]+)`", cell))


def public(cell: str) -> set[str]:
    """The names of gorun that a cell shows."""
    return set(re.findall(r"[A-Za-z]\w*", spans(cell))) & PUBLIC


@pytest.mark.parametrize("page", PAGES)
def test_each_row_stands_in_a_program(page: str) -> None:
    # Mutation: from-go without its program of contexts.
    used, _ = tokens(page)
    assert len(rows(page)) > 15
    missing = {left: names for left, right in rows(page) if (names := public(right) - used)}
    assert missing == {}


def test_go_is_named_beside_what_takes_its_place() -> None:
    # Mutation: drop the comment `# sync.OnceFunc, ...`.
    _, comments = tokens("from-go")
    named = {
        name
        for left, _ in rows("from-go")
        for name in re.findall(r"\b[a-z]+\.[A-Z]\w*", spans(left))
    }
    missing = {
        name
        for name in named
        if not re.search(rf"{re.escape(name)}\b", comments)
        # A method, of whatever the program calls its object.
        and not (len(name.split(".")[0]) < 4 and f".{name.split('.')[1]}" in comments)
    }
    assert missing == set()


def test_the_readme_shows_the_table_in_short() -> None:
    # Mutation: README.md without its table.
    text = (DOCS.parent / "README.md").read_text()
    short = re.search(r"^\| Go \| gorun \|$\n(.*?)\n\n(.*?)\n", text, re.MULTILINE | re.DOTALL)
    assert short
    table, below = short.groups()
    assert "(docs/from-go.md)" in below
    used, comments = tokens("from-go")
    cells = re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE)
    shown = {name for _, gorun_ in cells for name in public(gorun_)}
    assert {"go", "Chan", "select", "Mutex", "Group", "Deadlock", "gomaxprocs"} <= shown
    for go, gorun_ in cells:
        for name in public(gorun_):
            assert name in used or f"{name}_async" in used, gorun_
        for name in re.findall(r"\b[a-z]{4,}\.[A-Z]\w*", spans(go)):
            assert name in comments, go
