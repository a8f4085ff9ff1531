#!/bin/sh
# The study: SCALE=smoke (mnist5k), SCALE=paper (mnist and cifar10), SCALE=tiny (drawn shapes, for tests).
# What is done is not done again, so that it can be stopped at any point and started again. SEEDS="0 1 2" for several,
# WATERMARKS=noise or DATASETS_ONLY=mnist for a part, KEYS="paper negatives marks random" for a label for each trigger
# besides, LAUNCHER=joblib for jobs side by side, ATTACKS=prune,finetune,fineprune,overwrite for removal attacks besides,
# ADD=1 to keep what the CSV files tell of seeds, data sets and keys that are not run now.
set -eu
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
SCALE=${SCALE:-smoke}
SEEDS=${SEEDS:-0}
WATERMARKS=${WATERMARKS:-noise,content,unrelated}
KEYS=${KEYS:-paper negatives marks}
ATTACKS=${ATTACKS:-prune,finetune}
HERE=experiments/asiaccs2018
export WML_RUNS_DIR="${WML_RUNS_DIR:-runs/asiaccs2018-$SCALE}"
TASK= ATTACK=
case $SCALE in
  tiny) DATASETS=procedural
    TASK="++dataset.source.n_train=1200 ++dataset.source.n_test=600 trainer.max_epochs=2"
    ATTACK="++attack.finetune.epochs=1 ++attack.finetune.learning_rates=[0.01,0.1] ++attack.inversion.steps=20
      judge.n_strangers=9" ;;
  smoke) DATASETS=mnist5k ATTACK="++attack.finetune.learning_rates=[0.01,0.03,0.1]" ;;
  paper) DATASETS=cifar10,mnist ;; # the long ones first: side by side, the short ones fill the gaps
  *) echo "SCALE=$SCALE is unknown: tiny, smoke or paper" >&2; exit 1 ;;
esac
case $ATTACKS in *overwrite*) ATTACK="$ATTACK attack.overwrite.learning_rates=[0.01,0.03]" ;; esac
DATASETS=${DATASETS_ONLY:-$DATASETS}
OUT=${OUT:-$( [ "$SCALE" = paper ] && echo "$HERE" || echo "$WML_RUNS_DIR/results" )}
seeds=$(echo $SEEDS | tr ' ' ',')

train() { # shellcheck disable=SC2086 (options are words)
  "$PYTHON" train.py -m "dataset=$DATASETS" "seed=$seeds" $TASK ${LAUNCHER:+hydra/launcher=$LAUNCHER} "$@"
}
train watermark=none
inverted= others=
for key in $KEYS; do # several marks have several classes: inversion is told for one
  case $key in paper|negatives) inverted=$inverted,asiaccs2018/$key ;; *) others=$others,asiaccs2018/$key ;; esac
done
# shellcheck disable=SC2086
[ -z "$inverted" ] || train "watermark=$WATERMARKS" "experiment=${inverted#,}" "attack=[$ATTACKS,inversion]" $ATTACK
# shellcheck disable=SC2086
[ -z "$others" ] || train "watermark=$WATERMARKS" "experiment=${others#,}" "attack=[$ATTACKS]" $ATTACK
mkdir -p "$OUT" "$WML_RUNS_DIR/results"
# shellcheck disable=SC2086
"$PYTHON" experiments/ownership/power.py --runs "$WML_RUNS_DIR" --out "$WML_RUNS_DIR/results/verification.csv" --seeds $SEEDS
"$PYTHON" $HERE/tables.py --runs "$WML_RUNS_DIR" --out "$OUT" --command "SCALE=$SCALE SEEDS=\"$SEEDS\" make reproduce" \
  ${ADD:+--add} $( [ "$OUT" = "$HERE" ] && echo --readme || true )
