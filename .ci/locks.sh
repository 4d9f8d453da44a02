#!/usr/bin/env bash
# Writes locks/py313t/Cargo.lock: Cargo.lock with PyO3 set back to the last series that builds for
# the free-threaded 3.13. Every other crate keeps its version. Run it after Cargo.lock changed.
set -euo pipefail
cd "$(dirname "$0")/.."
pyo3=0.28.3

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cp -R Cargo.toml Cargo.lock rust "$scratch"
cd "$scratch"
for crate in pyo3 pyo3-build-config; do
    # After the first step one of the two may be there already.
    versions=$(grep -A1 "^name = \"$crate\"\$" Cargo.lock | sed -n 's/^version = "\(.*\)"/\1/p')
    for found in $versions; do
        [ "$found" = "$pyo3" ] || cargo update --quiet --package "$crate@$found" --precise "$pyo3"
    done
done
cd "$OLDPWD"
mkdir -p locks/py313t
cp "$scratch/Cargo.lock" locks/py313t/Cargo.lock
echo "locks/py313t/Cargo.lock: PyO3 $pyo3, all else as in Cargo.lock"
