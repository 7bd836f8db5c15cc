#!/usr/bin/env bash
# The tests that need a GPU, all of them, with a log. Nothing is installed.
#
#   benchmarks/gpu_tests.sh                      # everything marked gpu: some minutes, as CuPy compiles each kernel once
#   benchmarks/gpu_tests.sh tests/test_cublas.py # or what is named; further words are options of pytest
#   benchmarks/gpu_tests.sh -n 8                 # with pytest-xdist: kernels are compiled by many processes at a time
#   benchmarks/gpu_tests.sh --dry                # the same tests on the stand-in, on a machine without a GPU
#
# PYTHON: which Python (python3). LOG: where the log goes (gpu_tests.log). LIMIT: seconds after which pytest is interrupted
# and reports the failures so far (0: never). Exit status: pytest's, 2 without a GPU, or 124 at the limit.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
log=${LOG:-gpu_tests.log}
which=(-m gpu)
if [ "${1:-}" = "--dry" ]; then
    which=(-k strict)
    shift
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

run() {
    date
    nvidia-smi 2>&1 | head -n 20 || true
    "$python" - <<'CODE'
import platform
from importlib import metadata

import tinygrad_rnn as tg

names = ("numpy", "cupy-cuda12x", "cupy-cuda13x", "pytest", "torch")
print("Python", platform.python_version(), *(f"{n} {metadata.version(n)}" for n in names if any(metadata.distributions(name=n))))
try:
    home = tg.backend.get("cupy")
    print("CuPy works;", home.cublas if isinstance(home.cublas, str) else "products go to cuBLAS directly")
except tg.BackendError as error:
    print(error)
    raise SystemExit(2) from None
CODE
    local works=$?
    if [ $works -ne 0 ] && [ "${which[0]}" = "-m" ]; then
        echo "nothing was run"
        return 2
    fi
    # SIGINT is ignored in what a script began with &, unless it is restored.
    timeout --foreground --signal=INT --kill-after=30 "${LIMIT:-0}" env --default-signal=INT "$python" -m pytest \
        "${which[@]}" -rfE --tb=short --continue-on-collection-errors --durations=10 -p no:cacheprovider "$@"
}

run "$@" 2>&1 | tee "$log"
exit "${PIPESTATUS[0]}"
