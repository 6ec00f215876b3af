# shellcheck shell=bash disable=SC2154
# Stages that compare with transformers, PEFT, TRL and bitsandbytes, and that run the program as a user does.

# The steps of REFERENCE on MODEL; then the adapter in peft and the merged model in transformers.
beside_peft() { # PYTHON MODEL REFERENCE OUT
  cargo run --release --locked --example parity -- "$2" "$3" "$4"
  cargo run --release --locked -- merge "$4/adapter" --base "$2" --out "$4/merged"
  "$1" tests/reference/verify_export.py "$2" "$4/adapter" "$4/adapter_logits.safetensors" "$4/merged"
}

# Real weights against the reference implementations:
# - logits and ten LoRA steps on a dense and on an NF4 base, from a Hugging Face directory and from a GGUF file;
# - the same on small models of Gemma's shape, because no registry has Gemma's weights;
# - every chat template of the TRL wheel, and TRL's token ids and labels;
# - peak memory within a tenth of the prediction.
stage_reference() {
  local work python model ours theirs gemma
  work="$(tests/reference/setup.sh | tail -n 1)"
  python="$work/venv/bin/python"
  model="$work/models/SmolLM2-135M-Instruct"
  ours="$(mktemp -d)"
  theirs="$work/reference-$(sha256sum tests/reference/{real_reference.py,requirements.txt} | sha256sum | cut -c 1-12)"
  [ -f "$theirs/final/adapter_config.json" ] || "$python" tests/reference/real_reference.py "$model-f32" "$theirs"
  cargo run --release --locked --example parity -- "$model.Q4_1.gguf" "$theirs" "$ours/gguf"
  beside_peft "$python" "$model-f32" "$theirs" "$ours/hf"
  theirs="$work/gemma-$(sha256sum tests/reference/{random_gemma.py,real_reference.py,requirements.txt} | sha256sum | cut -c 1-12)"
  for gemma in gemma2 gemma3; do
    [ -f "$theirs/$gemma/config.json" ] || "$python" tests/reference/random_gemma.py "$theirs"
    [ -f "$theirs/$gemma-steps/final/adapter_config.json" ] ||
      "$python" tests/reference/real_reference.py "$theirs/$gemma" "$theirs/$gemma-steps" --random-ids
    beside_peft "$python" "$theirs/$gemma" "$theirs/$gemma-steps" "$ours/$gemma"
  done
  "$python" tests/reference/template_parity.py "$ours/templates" "$model-f32" "$work/tokenizers" 2> "$ours/warnings" ||
    { cat "$ours/warnings"; return 1; }
  cargo run --release --locked --example templates -- "$ours/templates"
  "$python" benches/cpu_step.py --only-tonfall --check-memory --rounds 1 --steps 4 --base "$model-f32" \
    --tonfall "$CARGO_TARGET_DIR/release/tonfall"
  "$python" benches/memory.py --base "$model-f32" --tonfall "$CARGO_TARGET_DIR/release/tonfall"
  rm -r "$ours"
}

# The metrics of a run as TensorBoard's own reader and Prometheus' own parser see them, and its curves as images.
exporters() {
  local out python
  python="$(tests/reference/setup.sh | tail -n 1)/venv/bin/python"
  out="$(mktemp -d)"
  cargo run --release --locked -- metrics "$1" --tensorboard "$out/tensorboard"
  cargo run --release --locked -- metrics "$1" > "$out/metrics.txt"
  cargo run --release --locked -- plot "$1" --out "$out/loss.svg"
  cargo run --release --locked -- plot "$1" --out "$out/loss.png"
  "$python" tests/reference/verify_exporters.py "$1" "$out"
  rm -r "$out"
}

# The README's main command, in a copy of nothing but what it names.
stage_quickstart() {
  local runs
  runs="$(mktemp -d)"
  cargo run --release --locked -- train recipes/quickstart.toml --set output_dir="\"$runs\""
  ls "$runs"/*/exports/adapter/adapter_model.safetensors
  exporters "$runs"/*/
  rm -r "$runs"
}

# Two processes that torchrun starts train together.
stage_processes() {
  local torchrun runs
  torchrun="$(tests/reference/setup.sh | tail -n 1)/venv/bin/torchrun"
  runs="$(mktemp -d)"
  cargo build --release --workspace --locked --bin tonfall
  RAYON_NUM_THREADS=1 "$torchrun" --nproc-per-node 2 --master-port "$(free_port)" --no-python \
    "$CARGO_TARGET_DIR/release/tonfall" train \
    recipes/quickstart.toml --run-name two --set training.max_steps=4 --set output_dir="\"$runs\""
  [ "$(grep -c '"kind":"step"' "$runs/two/events.jsonl")" = 4 ]
  ls "$runs/two/exports/adapter/adapter_model.safetensors"
  rm -r "$runs"
}
