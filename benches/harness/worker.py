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
        # "release" or "debug", once the extension tells; a debug build must not be published.
        build = getattr(getattr(gorun, "_gorun", None), "__profile__", "unknown build")
        about |= {"gorun": f"{gorun.__version__} ({build})", "procs": gorun.gomaxprocs()}
    about["gil"] = getattr(sys, "_is_gil_enabled", lambda: True)()
    return about


def counted(before: Any, after: Any) -> dict[str, int]:
    """What gorun's counters grew by between two `gorun.stats()`, summed over the Ps in both.

    `inexact` is 1 where that cannot be all of it. A P that sysmon lends (beyond gomaxprocs) is in
    `ps` only while it is lent, and its counters come and go with it. Seen are two signs: a number
    beyond gomaxprocs, and fewer runs than goroutines that began. 0 is no proof: the second sign is
    blind where each goroutine runs more than once.
    """
    old = {p.id: p for p in before.ps}
    new = [p for p in after.ps if p.id in old]
    grown = {
        name: sum(getattr(p, name) - getattr(old[p.id], name) for p in new) for name in COUNTERS
    }
    begun = after.created - before.created - after.runnable
    lent = max(p.id for p in (*before.ps, *after.ps)) >= after.gomaxprocs
    return grown | {"inexact": int(lent or grown["runs"] < begun)}


def run(variant: Variant, n: int) -> dict[str, Any]:
    assert variant.run is not None
    gc.collect()  # the last sample's garbage is not billed to this one; the thresholds stay
    if variant.runtime != "gorun":
        return answer(variant.run(n))
    import gorun

    before = gorun.stats()
    sample = variant.run(n)
    return answer(sample) | {"stats": counted(before, gorun.stats())}


def answer(sample: Sample) -> dict[str, Any]:
    return {"ns": sample.ns, "count": sample.count, "value": sample.value}


def serve(variant: Variant, out: IO[str]) -> None:
    for line in sys.stdin:
        words = line.split()
        try:
            reply = hello(variant) if words == ["hello"] else run(variant, int(words[2]))
        except (ImportError, AttributeError) as error:
            # A rival that is not installed is not available; what else it lacks is a fault.
            if variant.runtime != "gorun" and not isinstance(error, ModuleNotFoundError):
                raise
            if isinstance(error, AttributeError):  # a part that is not there yet, or a bug
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
