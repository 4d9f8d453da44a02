#!/usr/bin/env bash
# Prints the path of a CPython interpreter, or fails without a word.
#
#   .ci/find-python.sh         the first of python3, python3.14 .. python3.11 that is >= 3.11
#   .ci/find-python.sh 3.12    exactly that minor version: on PATH, else from pyenv
#
# Each candidate is run: a pyenv shim may be on PATH for a version that is not active.
# Free-threaded builds are skipped; they need an environment of their own (see .ci/build.sh).
set -euo pipefail

# probe CANDIDATE WANTED: prints its real path if it is a usable interpreter of that version.
probe() {
    "$1" -c '
import sys, sysconfig
import venv, ensurepip
wanted = sys.argv[1]
version = "%d.%d" % sys.version_info[:2]
good = version == wanted if wanted else sys.version_info >= (3, 11)
if not good or sysconfig.get_config_var("Py_GIL_DISABLED") or sys.implementation.name != "cpython":
    sys.exit(1)
print(sys.executable)
' "$2" 2>/dev/null
}

wanted=${1:-}
if [ -n "$wanted" ]; then
    candidates=("python$wanted" python3)
    if command -v pyenv >/dev/null 2>&1; then
        while read -r version; do
            candidates+=("$(pyenv root)/versions/$version/bin/python")
        done < <(pyenv versions --bare | grep -E "^${wanted//./\\.}\.[0-9]+$" | sort -rV)
    fi
else
    candidates=(python3 python3.14 python3.13 python3.12 python3.11)
fi

for candidate in "${candidates[@]}"; do
    if probe "$candidate" "$wanted"; then
        exit 0
    fi
done
exit 1
