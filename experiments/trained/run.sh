#!/bin/sh
# Watermarks into models that are already trained: the unmarked models of the study of the paper (found, or trained here),
# and three keys for each, beside no watermark: the same training without triggers. Finished runs are not repeated.
set -eu
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
STARTS=${STARTS:-runs/asiaccs2018-paper}
for seed in ${SEEDS:-0}; do
  for dataset in ${DATASETS:-mnist cifar10}; do
    WML_RUNS_DIR="$STARTS" "$PYTHON" train.py dataset="$dataset" watermark=none seed="$seed"
    start=$(ls -d "$STARTS/$dataset-none-"*"-s$seed-"*)
    for key in none "noise experiment=asiaccs2018/negatives" "content experiment=asiaccs2018/negatives" \
        "noise experiment=asiaccs2018/marks"; do
      # shellcheck disable=SC2086
      WML_RUNS_DIR="${WML_RUNS_DIR:-runs/trained}" "$PYTHON" train.py dataset="$dataset" seed="$seed" \
        start="$start" recipe=embed watermark=$key || echo "not kept: $dataset $key seed=$seed" >&2
    done
  done
done
"$PYTHON" experiments/trained/table.py --runs "${WML_RUNS_DIR:-runs/trained}" --starts "$STARTS"
