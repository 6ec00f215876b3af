#!/usr/bin/env bash
# Writes a source tree with all crates vendored, from which tonfall builds without a network.
# Usage: vendor.sh OUT_DIR (must not exist); afterwards `cargo build --release --frozen` works inside OUT_DIR offline.
set -euo pipefail
out=$1
root=$(cd "$(dirname "$0")/.." && pwd)
[ ! -e "$out" ] || { echo "$out exists already" >&2; exit 2; }
mkdir -p "$out/.cargo"
git -C "$root" archive HEAD | tar -x -C "$out"
cd "$out"
cargo vendor --locked --versioned-dirs vendor > .cargo/config.toml
