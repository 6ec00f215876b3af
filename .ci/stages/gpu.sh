# shellcheck shell=bash disable=SC2154
# Stages for the GPU code, without a GPU.

# The CUDA path under test libraries in place of the driver, cuBLASLt and NCCL. They compute nothing (NCCL adds); NVRTC and all host
# code are real. Every kernel must compile for three GPU generations, and each launch must be valid on them. A whole run must
# train, generate and export, two processes must train together, and memory must match the prediction. Without any driver, `--device auto`
# must train on the CPU and print so, and `--device cuda` must name what is missing.
stage_cuda() (
  tools
  kit="$cache/cuda-kit-3"
  cuda="$(echo "$cache"/tools/lib/python3*/site-packages/nvidia/cu13)"
  mkdir -p "$kit"
  for library in libcuda.so.1 libcublasLt.so.13 libnccl.so.2; do
    cc -O1 -shared -fPIC "tests/stand_in/${library%%.*}.c" -o "$kit/$library"
  done
  runs="$(mktemp -d)"
  simulated() { env CUDA_PATH="$cuda" LD_LIBRARY_PATH="$kit:$cuda/lib" STAND_IN_DIR="$runs/nccl" "$@"; }
  mkdir "$runs/nccl"

  # Outside of that environment: build scripts read CUDA_PATH, and everything above them would be built again.
  cargo build "${gpu[@]}" --bin tonfall --example gpu_suite
  devices="$(cargo test "${gpu[@]}" --test devices --no-run --message-format=json |
    grep -o '"executable":"[^"]*/devices-[^"]*"' | tail -n 1 | cut -d '"' -f 4)"
  for sm in 80 90 120; do
    echo "sm_$sm"
    simulated STAND_IN_SM="$sm" TONFALL_TEST_DEVICE=stand-in "$devices" --ignored
  done
  tonfall="$CARGO_TARGET_DIR/release/tonfall"
  train=(train recipes/quickstart.toml --set training.max_steps=3 --set 'export.to=["peft"]' --set output_dir="\"$runs\"" --device)
  # The test libraries compute nothing. So the adapter has no effect, and its export is refused after the last checkpoint.
  without_effect() {
    local status=0
    simulated "$@" || status=$?
    [ "$status" = 9 ]
  }
  without_effect "$tonfall" "${train[@]}" cuda --run-name one
  without_effect "$tonfall" "${train[@]}" cuda --run-name offload --set training.recompute='"offload"'
  # A GPU whose memory fills up in the middle of a step: the step has no effect and is repeated with halved micro-batches.
  without_effect STAND_IN_MIB=160 "$tonfall" "${train[@]}" cuda --run-name short --set training.micro_batch_size=64 \
    --set training.recompute='"off"' --set training.max_memory=80
  grep -q 'memory is short before step 1' "$runs/short/events.jsonl"
  processes=()
  port=$(free_port)
  for rank in 1 0; do
    simulated RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT="$port" \
      "$tonfall" "${train[@]}" cuda --run-name two &
    processes+=($!)
  done
  for process in "${processes[@]}"; do wait "$process" || [ $? = 9 ]; done
  "$tonfall" "${train[@]}" auto --run-name none |& tee "$runs/said"
  grep -q 'no CUDA device' "$runs/said"
  ls "$runs"/{one,offload,short,two}/checkpoints/*/adapter_model.safetensors "$runs/none/exports/adapter/adapter_model.safetensors"
  rm -r "$runs"
  simulated STAND_IN_DIR=/dev/shm python3 benches/gpu/memory.py "$CARGO_TARGET_DIR/release/examples/gpu_suite"
  if "$tonfall" train recipes/quickstart.toml --device cuda; then return 1; else [ $? = 2 ]; fi
)

# Every operation, and whole training steps, on software Vulkan. One process per test, because the driver crashes on shaders that it does
# not support.
stage_devices() {
  [ -n "$(ls /usr/share/vulkan/icd.d/lvp_icd*.json 2> /dev/null)" ] || apt-get install -y -q mesa-vulkan-drivers libvulkan1
  tools
  TONFALL_TEST_DEVICE=vulkan \
    cargo nextest run --cargo-profile release "${gpu[@]:1}" --no-fail-fast --run-ignored all \
    -E '(binary(devices) - test(cards_add_up) - test(a_card_alone)) | (package(tonfall-trainer) & binary(parity)) | test(doctor)'
}
