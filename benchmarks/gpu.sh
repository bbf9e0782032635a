#!/bin/bash
# Measure search and encoding on a GPU, in at most 4 minutes, on a bare machine that has torch.
#
#   bash benchmarks/gpu.sh            on a machine with a CUDA GPU
#   bash benchmarks/gpu.sh --tiny     a rehearsal with small sizes; on the CPU where there is no GPU
#
# PYTHON names the interpreter (default: this checkout's, else python3). Beside torch and numpy it
# needs lazy_loader, threadpoolctl and faiss, and says which are missing; without a FAISS that has
# a GPU build, only that part is left out. Output goes to stdout, and to the folder in OUT as gpu.txt.
#
# NOT RUN on a GPU so far: none was at hand where it was written, only the rehearsal was run.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-}
for candidate in .venv/bin/python python3 python; do
    [ -n "$python" ] || ! command -v "$candidate" > /dev/null || python=$candidate
done
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
ln -s "$PWD" "$root/blissaudit"
export PYTHONPATH="$root:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
[ -z "${OUT:-}" ] || exec > >(tee "$OUT/gpu.txt") 2>&1
command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
timeout 235 "$python" benchmarks/gpu.py "$@"
