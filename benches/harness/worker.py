"""A worker process that runs one variant: `python -m harness.worker ROW VARIANT`, cwd benches/.

It reads "hello" and "run ROW N" lines and answers each with a JSON line; benches/go/main.go
speaks the same. Anything that a row prints goes to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import traceback
from typing import IO, Any

from rows import find

from .model import Sample, Variant

COUNTERS = ("runs", "steals", "parks", "handoffs")


def hello(variant: Variant) -> dict[str, Any]:
    about: dict[str, Any] = {"version": platform.python_version(), "procs": None}
    if variant.runtime == "gorun":
        import gorun

        gorun.gomaxprocs(variant.procs)
        about |= {"gorun": gorun.__version__, "procs": gorun.gomaxprocs()}
    about["gil"] = getattr(sys, "_is_gil_enabled", lambda: True)()
    return about


def counters() -> dict[str, int]:
    """gorun's counters, summed over its Ps."""
    import gorun

    ps = gorun.stats().ps
    return {name: sum(getattr(p, name) for p in ps) for name in COUNTERS}


def run(variant: Variant, n: int) -> dict[str, Any]:
    assert variant.run is not None
    gc.collect()  # the last sample's garbage is not billed to this one; the thresholds stay
    if variant.runtime != "gorun":
        return answer(variant.run(n))
    before = counters()
    sample = variant.run(n)
    after = counters()
    return answer(sample) | {"stats": {name: after[name] - before[name] for name in COUNTERS}}


def answer(sample: Sample) -> dict[str, Any]:
    return {"ns": sample.ns, "count": sample.count, "value": sample.value}


def serve(variant: Variant, out: IO[str]) -> None:
    for line in sys.stdin:
        words = line.split()
        try:
            reply = hello(variant) if words == ["hello"] else run(variant, int(words[2]))
        except (ImportError, AttributeError, NotImplementedError) as error:
            if variant.runtime != "gorun":
                raise
            if not isinstance(error, ModuleNotFoundError):
                traceback.print_exc()
            reply = {"missing": f"{type(error).__name__}: {error}"}
        except Exception:  # whatever it is, the harness must hear of it
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    _, row_name, variant_name = sys.argv
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(find(row_name).variant(variant_name), answers)
