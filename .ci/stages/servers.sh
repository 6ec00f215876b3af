# shellcheck shell=bash disable=SC2154,SC2317
# Stages that ask the servers people run about our exports.

tonfall() { "$CARGO_TARGET_DIR/release/tonfall" --progress none "$@"; }

# Answers of one judge. PYTHON is judges, vllm (environments of servers/setup.sh) or reference.
ask() { # PYTHON JUDGE ARTEFACT OPTIONS…
  local python="$cache/servers/$1/bin/python"
  [ "$1" = reference ] && python="$cache/venv/bin/python"
  "$python" tests/reference/servers/ask.py "${@:2}" --logs "$logs"
}

# Starts a server of llama.cpp, runs a command with its URL, and stops it.
with_server() { # COMMAND MODEL [ADAPTER]
  local port server url status=0
  port=$(free_port)
  url="http://127.0.0.1:$port"
  "$cache/servers/judges/bin/python" tests/reference/servers/serve_llama_cpp.py "$port" "${@:2}" > "$logs/llama.cpp.log" 2>&1 &
  server=$!
  for _ in $(seq 240); do
    curl -sf "$url/health" > /dev/null && break
    kill -0 "$server" || break
    sleep 0.5
  done
  "$1" "$url" || status=$?
  kill "$server"
  wait "$server" || true
  [ "$status" = 0 ] || tail -n 20 "$logs/llama.cpp.log"
  return "$status"
}

# Asks llama.cpp's server with `tonfall verify`.
served_by_llama() { # DIR-OF-VERIFY AT-LEAST MODEL [ADAPTER]
  local dir=$1 at_least=$2
  verified() { tonfall verify "$dir" --server "$1" --at-least "$at_least"; }
  with_server verified "${@:3}"
}

# The pinned llama-server, an older llama.cpp: its package is built for processors with AMX.
ask_pinned() { # MODEL OPTIONS…
  if grep -qw amx_tile /proc/cpuinfo; then
    ask judges llama-server "$@"
  else
    echo "llama-server 0.10434 was NOT asked: it needs AMX, which this processor lacks"
  fi
}

# A run and all its exports. `tonfall export` compares each with the trained model.
exported() { # OUT RECIPE SETTINGS…
  cargo build --release --workspace --locked --bin tonfall
  tonfall train "$2" --run-name served --set output_dir="\"$1/runs\"" "${@:3}"
  tonfall export "$1/runs/served" --to peft,safetensors,gguf,gguf-adapter,ollama --types F16,Q8_0,Q4_K_M \
    --max-new-tokens 24 --out "$1/exports"
}

# SmolLM2, fine-tuned by a recipe.
exported_smollm2() { # OUT
  exported "$1" tests/reference/servers/recipe.toml --set base="\"$smollm2\""
}

# Term adherence on llama.cpp's server, in percent of the expected terms.
adherence() { # MODEL
  measured() { python3 tests/reference/servers/adherence.py "$1" recipes/quickstart/prompts.jsonl; }
  with_server measured "$1"
}

# Greedy answers to 20 held-out prompts, as token ids: llama.cpp's newest server and its pinned one, mistral.rs, mlx-lm,
# transformers and PEFT answer like the trained model. Then the families that have no real weights in the registries.
stage_servers() (
  tests/reference/setup.sh
  tests/reference/servers/setup.sh
  out="$(mktemp -d)"
  logs="$cache/servers/logs"
  mkdir -p "$logs"
  smollm2="$cache/models/SmolLM2-135M-Instruct-f32"

  # SmolLM2 after a few steps. Some of its answers are close decisions, which the order of a server's sums can change.
  exported_smollm2 "$out/smollm2"
  exports="$out/smollm2/exports"
  tonfall export "$smollm2" --to gguf --types F32 --no-verify --out "$out/base"
  base="$out/base/gguf/model-F32.gguf"
  adapter="$exports/gguf-adapter/adapter.gguf"
  served_by_llama "$exports/gguf" 18 "$exports/gguf/model-F16.gguf"
  served_by_llama "$exports/gguf-adapter" 18 "$base" "$adapter"
  verify=(--verify "$exports/gguf/verify.json" --at-least 18)
  ask judges xllamacpp "$exports/gguf/model-F16.gguf" "${verify[@]}"
  ask_pinned "$exports/gguf/model-F16.gguf" "${verify[@]}"
  ask reference transformers "$smollm2" --adapter "$exports/adapter" --merged "$exports/merged" "${verify[@]}"
  # About ten seconds a prompt on a CPU.
  ask judges mlx "$exports/merged" --verify "$exports/gguf/verify.json" --first 6 --at-least 5
  ask judges mistralrs "$exports/merged" "${verify[@]}"

  # The quickstart's model has learned its letters: 8 bits keep them, and 4 bits keep the terms.
  exported "$out/quickstart" recipes/quickstart.toml
  exports="$out/quickstart/exports"
  served_by_llama "$exports/gguf" 20 "$exports/gguf/model-F16.gguf"
  served_by_llama "$exports/gguf" 18 "$exports/gguf/model-Q8_0.gguf"
  full="$(adherence "$exports/gguf/model-F16.gguf")"
  small="$(adherence "$exports/gguf/model-Q4_K_M.gguf")"
  echo "F16: $full; Q4_K_M: $small"
  python3 -c 'import sys; a, b = (float(text.split()[1]) for text in sys.argv[1:]); assert abs(a - b) <= 2, "terms are lost"' \
    "$full" "$small"
  families "$out"
  rm -r "$out"
)

# Tiny models: the merged GGUF and base + adapter must give PEFT's answers on llama.cpp.
families() { # OUT
  local tiny family of
  tiny="$cache/tiny-$(cat tests/reference/servers/{tiny_families,expected,ask_transformers}.py tests/reference/requirements.txt |
    sha256sum | cut -c 1-12)"
  for family in llama mistral qwen2 qwen3 gemma gemma2 gemma3; do
    of="$tiny/$family"
    [ -f "$of/verify.json" ] || "$cache/venv/bin/python" tests/reference/servers/tiny_families.py "$tiny" "$cache" "$family"
    tonfall export "$of/adapter" --base "$of/base" --to gguf,gguf-adapter --types F32 --out "$1/$family"
    ask judges xllamacpp "$1/$family/gguf/model-F32.gguf" --verify "$of/verify.json"
    tonfall export "$of/base" --to gguf --types F32 --no-verify --out "$1/$family/base"
    ask judges xllamacpp "$1/$family/base/gguf/model-F32.gguf" --adapter "$1/$family/gguf-adapter/adapter.gguf" \
      --verify "$of/verify.json"
    rm -r "${1:?}/$family"
  done
}

# By name only: vLLM for CPUs is a download of several GB. Base + PEFT adapter through its OpenAI API.
stage_vllm() (
  tests/reference/setup.sh
  tests/reference/servers/setup.sh --vllm
  out="$(mktemp -d)"
  logs="$cache/servers/logs"
  mkdir -p "$logs"
  smollm2="$cache/models/SmolLM2-135M-Instruct-f32"
  exported_smollm2 "$out"
  ask vllm vllm "$smollm2" --adapter "$out/exports/adapter" --verify "$out/exports/adapter/verify.json" --at-least 20
  rm -r "$out"
)
