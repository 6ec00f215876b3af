# shellcheck shell=bash disable=SC2154
# Stages that ask the servers people run about our exports. Open until `tonfall export` exists as written here:
# - no training run and no `tonfall export` was tried here: `exported` and the names exports/TARGET/FILE are assumptions;
# - exports/gguf/ needs three types (F16, Q8_0, Q4_K_M) and base.F16.gguf, the base that the GGUF adapter is loaded on: name the options;
# - GGUF adapter on a quantised base (SmolLM2's own Q4_1 file), and exports/ollama (no server: only its files);
# - thresholds of Q4_K_M: term adherence within 2 points (`tonfall verify --server` or `tonfall eval` on the answers of `ask … --write FILE`);
# - the run's own verify.json in place of expected.py, as a second source of expected answers;
# - the tiny families need an adapter export from a PEFT directory: `tonfall export ADAPTER --base BASE`.

# Answers of one judge. PYTHON is judges, vllm (environments of servers/setup.sh) or reference.
ask() { # PYTHON JUDGE ARTEFACT OPTIONS…
  local python="$cache/servers/$1/bin/python"
  [ "$1" = reference ] && python="$cache/venv/bin/python"
  "$python" tests/reference/servers/ask.py "${@:2}" --logs "$logs"
}

# SmolLM2 fine-tuned by a recipe, its exports, and what PEFT answers to 20 held-out prompts.
exported() { # OUT
  local runs="$1/runs" base="$cache/models/SmolLM2-135M-Instruct-f32"
  cargo build --release --workspace --locked --bin tonfall
  "$CARGO_TARGET_DIR/release/tonfall" train recipes/quickstart.toml --run-name served --set output_dir="\"$runs\"" \
    --set base="\"$base\"" --set quantization='"none"' --set training.max_steps=30 --set training.micro_batch_size=4 \
    --set training.learning_rate=1e-3 --set export.merged=false
  "$CARGO_TARGET_DIR/release/tonfall" export "$runs/served" --to gguf,gguf-adapter,ollama,safetensors,peft --out "$1/exports"
  "$cache/venv/bin/python" tests/reference/servers/expected.py "$base" "$1/exports/peft" recipes/quickstart/prompts.jsonl "$1/verify.json"
}

# llama.cpp's pinned server and its newest one, mistral.rs, mlx-lm, transformers and PEFT: equal greedy answers, as token ids.
stage_servers() (
  tests/reference/setup.sh
  tests/reference/servers/setup.sh
  out="$(mktemp -d)"
  logs="$cache/servers/logs"
  base="$cache/models/SmolLM2-135M-Instruct-f32"
  exported "$out"
  exports="$out/exports"
  verify=(--verify "$out/verify.json")
  for server in llama-server xllamacpp; do
    ask judges $server "$exports/gguf/model.F16.gguf" "${verify[@]}" --at-least 20
    ask judges $server "$exports/gguf/model.Q8_0.gguf" "${verify[@]}" --at-least 18
    # Equal answers are not expected of 4 bits: the server must load it and answer.
    ask judges $server "$exports/gguf/model.Q4_K_M.gguf" "${verify[@]}" --at-least 1 --write "$out/$server.Q4_K_M.json"
    ask judges $server "$exports/gguf/base.F16.gguf" --adapter "$exports/gguf-adapter/adapter.gguf" "${verify[@]}" --at-least 20
  done
  ask reference transformers "$base" --adapter "$exports/peft" --merged "$exports/safetensors" "${verify[@]}" --at-least 20
  ask reference transformers "$exports/safetensors" "${verify[@]}" --at-least 20
  ask judges mlx "$exports/safetensors" "${verify[@]}" --at-least 20
  ask judges mistralrs "$exports/safetensors" "${verify[@]}" --at-least 20
  families "$out"
  rm -r "$out"
)

# Families without real weights in the registries: tiny models, whose merged GGUF and adapter must give PEFT's answers on llama.cpp.
families() { # OUT
  local tiny family
  tiny="$cache/tiny-$(cat tests/reference/servers/{tiny_families,expected,ask_transformers}.py tests/reference/requirements.txt |
    sha256sum | cut -c 1-12)"
  for family in llama mistral qwen2 qwen3 gemma gemma2 gemma3; do
    [ -f "$tiny/$family/verify.json" ] ||
      "$cache/venv/bin/python" tests/reference/servers/tiny_families.py "$tiny" "$cache" "$family"
    "$CARGO_TARGET_DIR/release/tonfall" export "$tiny/$family/adapter" --base "$tiny/$family/base" \
      --to gguf,gguf-adapter,safetensors --out "$1/$family"
    for server in llama-server xllamacpp; do
      ask judges $server "$1/$family/gguf/model.F16.gguf" --verify "$tiny/$family/verify.json"
      ask judges $server "$1/$family/gguf/base.F16.gguf" --adapter "$1/$family/gguf-adapter/adapter.gguf" \
        --verify "$tiny/$family/verify.json"
    done
    ask reference transformers "$1/$family/safetensors" --verify "$tiny/$family/verify.json"
  done
}

# By name only: vLLM for CPUs is a download of several GB. Base + PEFT adapter through its OpenAI API.
stage_vllm() (
  tests/reference/setup.sh
  tests/reference/servers/setup.sh --vllm
  out="$(mktemp -d)"
  logs="$cache/servers/logs"
  exported "$out"
  ask vllm vllm "$cache/models/SmolLM2-135M-Instruct-f32" --adapter "$out/exports/peft" --verify "$out/verify.json" --at-least 20
  rm -r "$out"
)
