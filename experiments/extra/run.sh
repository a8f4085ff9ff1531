#!/bin/sh
# Single runs that the project's README tells of: negatives beyond one for each trigger, and longer training.
#   SEEDS, LAUNCHER, STORE   as in experiments/ablations/run.sh
set -eu
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
STORE=${STORE:-runs/extra}
seeds=$(echo ${SEEDS:-0} | tr ' ' ',')
train() {
  "$PYTHON" train.py -m "seed=$seeds" "runs_dir=$STORE" group=extra logger=none callbacks=none \
    "hydra/launcher=${LAUNCHER:-joblib}" "$@"
}
train dataset=mnist watermark=unrelated watermark.negatives=1,4,8
train dataset=cifar10 watermark=noise recipe=cifar10_long
"$PYTHON" experiments/extra/table.py --runs "$STORE"
"$PYTHON" experiments/front.py
