#!/bin/sh
# The GPU tests, and the figures of the benchmarks on one GPU, in under 10 minutes. Run it in the root of the repository:
#
#     sh benchmarks/gpu.sh [python]
#
# `python` has the packages of `make setup` and a torch for CUDA. Each part ends with one line of JSON; a part that fails
# does not stop the others, and makes the script fail.
PYTHON=${1:-.venv/bin/python}
status=0

part() {
    name=$1
    shift
    echo "== $name"
    timeout "$LIMIT" "$@" || { echo "{\"failed\": \"$name\"}"; status=1; }
}

"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "there is no CUDA device"; exit 1; }
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
LIMIT=120 part tests "$PYTHON" -m pytest -q -m gpu tests/worker/test_gpu.py
LIMIT=90 part attribution "$PYTHON" benchmarks/attribution.py --quick --device cuda
LIMIT=60 part "job of 135M" "$PYTHON" benchmarks/large_job.py --shape 135M --device cuda
LIMIT=180 part "job of 8B" "$PYTHON" benchmarks/large_job.py --shape 8B --device cuda
exit $status
