#!/bin/sh
# The runs behind the README's first table: what embedding costs and gives. Finished runs are not repeated, so that it
# can be stopped and started again, and several can work side by side (DATASETS="mnist" SEEDS="0 1" sh run.sh).
set -eu
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
export WML_RUNS_DIR="${WML_RUNS_DIR:-runs/embedding}"
for seed in ${SEEDS:-0 1 2}; do
  for dataset in ${DATASETS:-mnist cifar10}; do
    "$PYTHON" train.py dataset="$dataset" watermark=none seed="$seed"
    for watermark in ${WATERMARKS:-noise content unrelated}; do
      for key in ${KEYS:-paper negatives marks}; do
        "$PYTHON" train.py dataset="$dataset" watermark="$watermark" experiment=embedding/"$key" seed="$seed"
      done
    done
  done
done
