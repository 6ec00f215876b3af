# shellcheck shell=bash disable=SC2154
# Stages that need only Rust: tests, formatting, lints, dependencies, fuzzing.

# The README's test command.
stage_test() { cargo test --release --workspace --locked; }

stage_fmt() { cargo fmt --all --check; }

# Clippy and rustdoc with the given cargo arguments. The second clippy pass bans file writes that are not durable; tests may write in
# any way, so it leaves them out.
lint() {
  cargo clippy --release --workspace --locked "$@" --all-targets -- -D warnings -A clippy::disallowed_methods
  cargo clippy --release --workspace --locked "$@" --lib --bins --examples -- -D warnings
  RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
    cargo doc --release --workspace --locked "$@" --no-deps --document-private-items
}

stage_lint() { lint; }

stage_lint_gpu() { lint --features "$features"; }

# Advisories are left out: their database is on a git server, which this machine may not reach.
stage_deny() {
  tools
  cargo-deny --locked check bans licenses sources
}

# Every reader of foreign bytes, two at a time, from a corpus of the repository's own fixtures. Ten seconds each; FUZZ_SECONDS=60 for longer.
stage_fuzz() {
  tools
  fuzz/run "${FUZZ_SECONDS:-10}"
}

# The dashboard on a real terminal.
stage_terminal() {
  command -v tmux > /dev/null || apt-get install -y -q tmux
  cargo test --release --workspace --locked --test e2e -- --ignored terminal
}
