# shellcheck shell=bash disable=SC2154
# The stage for packaging/: the wheel and the archive are built and used, the rest is linted.

stage_wheel() (
  tools
  command -v shellcheck > /dev/null || apt-get install -y -q shellcheck
  shellcheck packaging/*.sh .ci/run .ci/stages/*.sh tests/reference/setup.sh tests/reference/servers/setup.sh recipes/quickstart/make.sh fuzz/run
  hadolint packaging/Containerfile
  check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

  out="$(mktemp -d)"
  (cd packaging/python && maturin build --release --locked --out "$out" --interpreter python3)
  python3 -m venv "$out/venv"
  "$out/venv/bin/python" -m pip install -q --no-index "$out"/tonfall-*.whl
  ls -l "$out"/tonfall-*.whl
  "$out/venv/bin/tonfall" --version
  "$out/venv/bin/tonfall" doctor
  python3 -m zipfile -e "$out"/tonfall-*.whl "$out/unpacked"
  packaging/archive.sh "$out/venv/bin/tonfall" "$out" tonfall-test "$(find "$out/unpacked" -name '*.cyclonedx.json' | head -n 1)"
  tar tzf "$out/tonfall-test.tar.gz"
  rm -r "$out"
)
