"""Imports go one way, files stay small (DESIGN, section 4)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_matrix

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "rust/core/src"
LONGEST = 700
TO_BE_SPLIT: set[str] = set()
"""Longer for now. Who splits one takes it out here: the test fails until then."""
PYTHON = ROOT / "python/gorun"


def core_layers() -> list[str]:
    """The order that rust/core/src/lib.rs states, highest first."""
    text = (CORE / "lib.rs").read_text()
    [line] = re.findall(r"imports go down only: (.*?);", text.replace("\n//!", ""))
    return re.findall(r"\[`(\w+)`\]", line)


def code_of(file: Path) -> str:
    """A Rust file without comments and tests."""
    text = re.sub(r"//[^\n]*", "", file.read_text())
    return text.split("#[cfg(test)]")[0]


def test_core_layers() -> None:
    # Mutation: `use crate::runtime::Runtime;` in rust/core/src/timer/wheel.rs.
    layers = core_layers()
    upper = ["runtime", "select", "chan", "mutex", "gate"]
    assert layers == [*upper, "wait", "sched", "timer", "trace", "prim"]
    # The scheduler is written as methods of the runtime, which holds its parts; `host` is the seam.
    allowed_up = {("sched", "runtime"), ("wait", "runtime"), ("sched", "wait")}
    allowed_up |= {(above, "runtime") for above in upper}
    wrong = []
    for file in CORE.rglob("*.rs"):
        own = file.relative_to(CORE).parts[0].removesuffix(".rs")
        if own not in layers or "tests" in file.parts or file.stem in ("tests", "model"):
            continue
        for other in re.findall(r"crate::(\w+)", code_of(file)):
            up = other in layers and layers.index(other) < layers.index(own)
            if up and (own, other) not in allowed_up:
                wrong.append(f"{file.relative_to(ROOT)} uses {other}")
    assert wrong == []


def test_the_core_knows_no_python() -> None:
    # Mutation: `use pyo3` in the core.
    assert "pyo3" not in (ROOT / "rust/core/Cargo.toml").read_text()
    for file in CORE.rglob("*.rs"):
        assert "pyo3" not in code_of(file), file
        assert "PyObject" not in code_of(file), file


def test_no_cell_that_a_fork_leaves_half_made() -> None:
    """One that is filled when first used, by whoever comes first, while others wait for that.

    Mutation: `intern!` anywhere in rust/py.
    """
    lazy = r"\b(intern!|PyOnceLock|LazyLock)"
    found = [f.name for f in (ROOT / "rust/py/src").rglob("*.rs") if re.search(lazy, code_of(f))]
    assert set(found) <= {"errors.rs"}, found  # which are filled at import


def test_leaves_of_the_bindings() -> None:
    # Mutation: `use crate::ops` in args.rs.
    leaves = {"args": {"errors"}, "errors": set(), "rawtype": {"errors"}}
    for name, allowed in leaves.items():
        used = set(re.findall(r"crate::(\w+)", code_of(ROOT / f"rust/py/src/{name}.rs")))
        assert used <= allowed, (name, used)


LAYERS = [
    {"_errors", "_gil", "_selected", "_settings"},
    {"_gorun"},
    {"_hooks"},
    {"_callers", "_context", "_joining", "_pool", "_runtime", "_sync", "_ticker"},
    {"_cond", "_every", "_groups", "_leaks", "_once", "_timeout"},
    {"_deadlock", "_pytest"},
    {"_proc"},
    {"_executor", "_map"},
    {"__init__", "_cli"},
    {"joblib", "distributed"},
    {"__main__"},
]


def level(module: str) -> int:
    for n, names in enumerate(LAYERS):
        if module in names:
            return n
    return len(LAYERS)  # what comes later stands above; it names its place here


def imports_of(tree: ast.AST) -> set[str]:
    """gorun's modules that are imported when the module is: not inside functions."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and node.module == "gorun":
            found.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gorun."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found.update(a.name.split(".")[1] for a in node.names if a.name.startswith("gorun."))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def test_python_layers() -> None:
    # Mutation: `from gorun._runtime import run` at the top of _hooks.py.
    wrong = []
    for file in PYTHON.rglob("*.py"):
        own = file.relative_to(PYTHON).parts[0].removesuffix(".py")
        for other in imports_of(ast.parse(file.read_text())):
            if other.startswith("_") and own != other and level(other) >= level(own):
                wrong.append(f"{file.relative_to(ROOT)} imports {other}")
    assert wrong == []


def test_files_stay_small() -> None:
    # Mutation: a file of 701 lines.
    sources = [*ROOT.glob("rust/*/src/**/*.rs"), *PYTHON.rglob("*.py")]
    assert sources
    long = {
        str(file.relative_to(ROOT)): n
        for file in sources
        if file.stem != "tests" and (n := len(file.read_text().splitlines())) > LONGEST
    }
    assert long.keys() == TO_BE_SPLIT, long
