"""The command line: `python -m gorun COMMAND`. One module for each command, loaded when asked for.

A command is a module with `main(argv) -> int`; its exit code is 0, 1 when what it checks does not
hold, or 2 when it was called wrongly.
"""

from __future__ import annotations

import importlib
import sys

import gorun

# name: (module, what it does)
COMMANDS = {
    "map": (
        "gorun._cli.mapjob",
        "parse, or compress and hash, real files in parallel, against its rivals",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Runs `argv` (default: the program's own arguments) and gives the exit code."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if args[0] == "--version":
        print(f"gorun {gorun.__version__}")
        return 0
    if args[0] not in COMMANDS:
        print(f"python -m gorun: no command {args[0]!r}\n\n{_overview()}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[args[0]][0])
    code: int = module.main(args[1:])
    return code


def _overview() -> str:
    rows = [f"  {name:<8}{told}" for name, (_, told) in COMMANDS.items()]
    return "\n".join(
        [
            f"gorun {gorun.__version__}: Go's scheduler for Python",
            "",
            "python -m gorun COMMAND [--help]",
            *rows,
        ]
    )
