#!/bin/sh
# The runs behind the tables and curves of this folder: the paper's key and the key with negatives, attacked. Models
# that are in the store already are not trained again, attacks that are done are not repeated, so that it can be
# stopped and started again, and several can work side by side (DATASETS="mnist" SEEDS="0 1" sh run.sh).
set -eu
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
export WML_RUNS_DIR="${WML_RUNS_DIR:-runs/embedding}"
for seed in ${SEEDS:-0 1 2}; do
  for dataset in ${DATASETS:-mnist cifar10}; do
    for watermark in ${WATERMARKS:-noise content unrelated}; do
      for key in ${KEYS:-paper negatives}; do
        "$PYTHON" train.py dataset="$dataset" watermark="$watermark" experiment=embedding/"$key" seed="$seed" \
          attack=[prune,finetune,inversion]
      done
    done
  done
done
