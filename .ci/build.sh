#!/usr/bin/env bash
# Makes a virtual environment for one interpreter and builds gorun into it.
#
#   .ci/build.sh PYTHON VENV PROFILE [REQUIREMENTS]
#
# PROFILE is a Cargo profile (release, dev, ci), or "none": environment and tools only.
# REQUIREMENTS defaults to requirements/others.txt, on free-threaded interpreters test.txt. What is up to date is left alone.
# The Python sources stay where they are (an editable install); the extension lands beside them
# under a name with the interpreter's tag, so several interpreters share one checkout.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1 venv=$2 profile=$3
free_threaded='import sysconfig; print(sysconfig.get_config_var("Py_GIL_DISABLED") or 0)'
usual=others
[ "$("$python" -c "$free_threaded")" = 0 ] || usual=test
requirements=${4:-requirements/$usual.txt}

# --- The environment: made anew when it belongs to another interpreter or is broken. ------------
identity='import sys; print(sys.version, sys.base_prefix, sys.abiflags)'
if [ "$("$venv/bin/python" -c "$identity" 2>/dev/null)" != "$("$python" -c "$identity")" ]; then
    echo "making $venv with $("$python" -V)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

# --- The tools, at pinned versions. -------------------------------------------------------------
pins=$(cat requirements/*.txt; echo "$requirements")
if [ "$(cat "$venv/.tools" 2>/dev/null)" != "$pins" ]; then
    echo "installing $requirements into $venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
    printf '%s\n' "$pins" >"$venv/.tools"
fi
# The Makefile compares dates: newer than what it was made from, else untouched.
for file in requirements/*.txt; do
    [ ! "$file" -nt "$venv/.tools" ] || touch "$venv/.tools"
done

[ "$profile" != none ] || exit 0

# --- The extension. -----------------------------------------------------------------------------
# PyO3 0.29 dropped the free-threaded 3.13. For it a copy of the workspace is built with a second
# lock file, which holds PyO3 0.28; only the Python sources are shared. It is a copy because maturin
# follows links back to the original. Its files keep their dates, so cargo builds what changed.
workspace=$PWD
if "$python" -c 'import sys, sysconfig
sys.exit(not (sysconfig.get_config_var("Py_GIL_DISABLED") and sys.version_info < (3, 14)))'; then
    workspace=$PWD/build/py313t
    mkdir -p "$workspace"
    rm -rf "$workspace/rust"
    cp -pR Cargo.toml pyproject.toml README.md LICENSE-MIT LICENSE-APACHE rust "$workspace"
    cp -p locks/py313t/Cargo.lock "$workspace/Cargo.lock"
    ln -sfn ../../python "$workspace/python"
fi

venv=$(cd "$venv" && pwd)
rm -f "$venv"/.built-*
cd "$workspace"
env -u CONDA_PREFIX VIRTUAL_ENV="$venv" CARGO_TARGET_DIR="$workspace/target" \
    "$venv/bin/maturin" develop --quiet --profile "$profile"
touch "$venv/.built-$profile" # the Makefile compares its date
