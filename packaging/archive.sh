#!/usr/bin/env bash
# Packs a release archive: the program, shell completions, man page, licence, README, and an SBOM if one is given.
# Usage: archive.sh PROGRAM OUT_DIR NAME [SBOM]; writes OUT_DIR/NAME.tar.gz and OUT_DIR/NAME.tar.gz.sha256.
set -euo pipefail
program=$(realpath "$1")
out=$(realpath "$2")
name=$3
sbom=${4:-}
root=$(cd "$(dirname "$0")/.." && pwd)

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
folder=$stage/$name
mkdir -p "$folder/completions" "$folder/man"
cp "$program" "$root/LICENSE" "$root/README.md" "$root/CHANGELOG.md" "$folder/"
[ -z "$sbom" ] || cp "$sbom" "$folder/tonfall.cyclonedx.json"
for shell in bash zsh fish elvish powershell; do
  "$program" completions "$shell" > "$folder/completions/tonfall.$shell"
done
"$program" man > "$folder/man/tonfall.1"
tar -C "$stage" --owner=0 --group=0 --numeric-owner --sort=name --mtime=@0 -czf "$out/$name.tar.gz" "$name" 2> /dev/null ||
  tar -C "$stage" -czf "$out/$name.tar.gz" "$name"   # BSD tar has none of GNU's options for reproducible archives
cd "$out"
if command -v sha256sum > /dev/null; then sha256sum "$name.tar.gz"; else shasum -a 256 "$name.tar.gz"; fi > "$name.tar.gz.sha256"
cat "$name.tar.gz.sha256"
