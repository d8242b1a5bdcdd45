#!/usr/bin/env bash
# The builds with libraries that candle computes with on CPUs and on Apple's GPUs, on a Linux machine that has none of them:
# `mkl` is built, linked and run over the golden tests; `metal` and `accelerate` are compiled for Apple's CPUs, not linked.
#
#     deploy/check-libraries.sh [FOLDER]
#
# FOLDER keeps the packages (2 GB), which come from PyPI, and the builds between runs; by default target/libraries.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-target/libraries}
mkdir -p "$folder"
folder=$(realpath "$folder")

if [ ! -x "$folder/venv/bin/pip" ]; then
    python3 -m venv "$folder/venv"
fi
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile mkl-static mkl-include ziglang

# Apple's headers are not free to have: what is C in the dependencies is compiled by zig, which brings its own. The allocator wants
# one that it has not; nothing is linked, so that an empty archive does in its place.
mkdir -p "$folder/bin"
for tool in cc c++ ar; do
    printf '#!/bin/sh\nexec "%s" -m ziglang %s "$@"\n' "$folder/venv/bin/python" "$tool" >"$folder/bin/zig-$tool"
    chmod +x "$folder/bin/zig-$tool"
done
rustup target add aarch64-apple-darwin
touch "$folder/libjemalloc.a"
echo "== metal and accelerate, for aarch64-apple-darwin"
CARGO_TARGET_DIR=$folder/apple \
    CC_aarch64_apple_darwin="$folder/bin/zig-cc" CXX_aarch64_apple_darwin="$folder/bin/zig-c++" \
    AR_aarch64_apple_darwin="$folder/bin/zig-ar" CFLAGS_aarch64_apple_darwin="-target aarch64-macos" CRATE_CC_NO_DEFAULTS=1 \
    JEMALLOC_OVERRIDE="$folder/libjemalloc.a" \
    cargo check --locked --target aarch64-apple-darwin --features metal,accelerate --all-targets

echo "== mkl"
MKLROOT=$folder/venv CARGO_TARGET_DIR=$folder/mkl LD_LIBRARY_PATH=$folder/venv/lib \
    cargo test --locked --features mkl --test golden
