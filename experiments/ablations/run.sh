#!/bin/sh
# Ablations that the paper lacks, each a line of a sweep: one option at a time, from the paper's key. Finished runs are not
# repeated.
#   DATASET=mnist     another data set: a section of its own on the page, beside those that are there
#   SEEDS="0 1 2"     several seeds
#   LAUNCHER=basic    one job after the other; without it as many side by side as there are cores
#   STORE             where runs are kept
set -eu
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
DATASET=${DATASET:-mnist5k}
STORE=${STORE:-runs/ablations}
seeds=$(echo ${SEEDS:-0 1 2} | tr ' ' ',')
# New triggers are made of the judge's half of the test images: of mnist5k's, one class has 50.
case $DATASET in mnist5k) of_a_class=50 ;; *) of_a_class=200 ;; esac
train() {
  "$PYTHON" train.py -m "dataset=$DATASET" "seed=$seeds" experiment=asiaccs2018/paper "runs_dir=$STORE" group=ablations \
    logger=none callbacks=none "hydra/launcher=${LAUNCHER:-joblib}" "$@"
}
sweep() { train "watermark.n_new=$of_a_class" "$@"; }
sweep_any() { train watermark.source_class=any watermark.n_new=200 "$@"; }
sweep watermark=noise watermark.fresh=false,true                               # one secret pattern, or a new one each time
sweep watermark=noise,content watermark.n_triggers=0.001,0.003,0.01,0.03,0.1   # of the training images
sweep watermark=noise,content watermark.mix=concat,per_batch
sweep watermark=noise watermark.strength=0.05,0.1,0.2,0.4
sweep watermark=content watermark.opacity=0.25,0.5,1.0
sweep watermark=noise,content,unrelated watermark.negatives=0,1
sweep watermark=noise,content,unrelated trainer.precision=32-true,bf16-mixed
sweep_any watermark=noise,content,unrelated watermark.n_marks=1,8 watermark.n_triggers=0.04
sweep_any watermark=noise,content watermark.label=target,random
"$PYTHON" experiments/ablations/table.py --runs "$STORE"
