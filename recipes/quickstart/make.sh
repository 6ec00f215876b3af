#!/usr/bin/env bash
# Regenerates the quickstart's base model: tables → data → pre-training by tonfall → base/.
#
#     TONFALL=target/release/tonfall PYTHON=python3 recipes/quickstart/make.sh
#
# Needs Python ≥ 3.11 with the package `tokenizers`. Takes a few minutes on two cores.
set -euo pipefail

tonfall=$(realpath "$(command -v "${TONFALL:-tonfall}")")
cd "$(dirname "$0")"

"${PYTHON:-python3}" make.py

rm -rf build/runs
"$tonfall" train pretrain.toml

models=(build/runs/*/exports/model)
[[ ${#models[@]} -eq 1 && -f ${models[0]}/model.safetensors ]] || {
  echo "make.sh: expected exactly one finished model under build/runs, found: ${models[*]}" >&2
  exit 1
}
rm -rf base.new
cp -r "${models[0]}" base.new
rm -rf base
mv base.new base
ls -l base
