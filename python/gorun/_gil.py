"""Whether threads of this interpreter take turns.

A worker process, which loads nothing of gorun, asks by itself (`_proc/child.py`).
"""

from __future__ import annotations

import sys


def gil_enabled() -> bool:
    """Asked at each call where it matters: a free-threaded build can be told to use the lock after all."""
    return not hasattr(sys, "_is_gil_enabled") or sys._is_gil_enabled()
