#!/bin/sh
# Watermarks into models that are already trained: the unmarked models of the study of the paper (found, or trained here),
# and three keys for each, beside no watermark: the same training without triggers. Finished runs are not repeated.
#   SEEDS="0 1 2"            several seeds
#   DATASETS="mnist"         a part of the study
#   JOBS=1                   one after the other; without it as many side by side as there are cores
#   STARTS, STORE            where unmarked models are, and where the others go
set -eu
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
STARTS=${STARTS:-runs/asiaccs2018-paper}
STORE=${STORE:-runs/trained}
# shellcheck disable=SC2086 (options are words)
"$PYTHON" experiments/trained/embed.py --seeds ${SEEDS:-0} --datasets ${DATASETS:-cifar10 mnist} ${JOBS:+--jobs $JOBS} \
  --starts "$STARTS" --runs "$STORE"
"$PYTHON" experiments/trained/table.py --runs "$STORE" --starts "$STARTS"
