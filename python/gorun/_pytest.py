"""The pytest plugin: the fixture ``gorun_no_leaks``. Found by pytest through the entry point ``pytest11``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gorun._leaks import check_leaks


@pytest.fixture
def gorun_no_leaks() -> Iterator[None]:
    """Fails the test if goroutines that it started are still alive at its end."""
    with check_leaks():
        yield
