#!/bin/sh
# Ablations that the paper lacks, each a line of a sweep: one option at a time, from the paper's key. Finished runs are not
# repeated. DATASET=mnist for another data set, SEEDS="0 1 2" for several seeds.
set -eu
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
DATASET=${DATASET:-mnist5k}
export WML_RUNS_DIR="${WML_RUNS_DIR:-runs/ablations}"
seeds=$(echo ${SEEDS:-0 1 2} | tr ' ' ',')
sweep() {
  "$PYTHON" train.py -m "dataset=$DATASET" "seed=$seeds" experiment=asiaccs2018/paper logger=none callbacks=none "$@"
}
sweep watermark=noise watermark.fresh=false,true                               # one secret pattern, or a new one each time
sweep watermark=noise,content watermark.n_triggers=0.001,0.003,0.01,0.03,0.1   # of the training images
sweep watermark=noise,content watermark.mix=concat,per_batch
sweep watermark=noise watermark.strength=0.05,0.1,0.2,0.4
sweep watermark=content watermark.opacity=0.25,0.5,1.0
sweep watermark=noise,content,unrelated watermark.negatives=0,1
sweep watermark=noise,content,unrelated watermark.n_marks=1,8 watermark.n_triggers=0.04 watermark.source_class=any
sweep watermark=noise,content watermark.label=target,random watermark.source_class=any
sweep watermark=noise trainer.precision=32-true,bf16-mixed
"$PYTHON" experiments/ablations/table.py --runs "$WML_RUNS_DIR"
