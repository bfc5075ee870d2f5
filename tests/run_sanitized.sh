#!/usr/bin/env bash
# Builds the module with the address and undefined-behaviour sanitizers in an environment of its own and runs the
# operator tests on it, hypothesis fuzzing of malformed input included. On two cores the build takes about ten minutes,
# the tests some fifteen.
#   tests/run_sanitized.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
. "$work/venv/bin/activate"
pip install -q '.[test]' --config-settings=cmake.define.GHOST_NATIVE_SANITIZE=address,undefined --config-settings=cmake.build-type=RelWithDebInfo
# Python itself is not sanitized: preload the runtimes, and leave its own allocations at exit alone.
compiler=${CXX:-c++}
preload="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libubsan.so) $($compiler -print-file-name=libstdc++.so)"
LD_PRELOAD="$preload" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
  python -m pytest tests/ops -p no:cacheprovider -q "$@"
