#!/bin/sh
# The study: SCALE=smoke (mnist5k), SCALE=paper (mnist and cifar10), SCALE=tiny (drawn shapes, for tests).
# What is done is not done again, so that it can be stopped at any point and started again. Besides:
#   SEEDS="0 1 2"            several seeds
#   KEYS="paper random"      other keys (conf/experiment/asiaccs2018); fresh noise is tried with WATERMARKS that have noise
#   ATTACKS=prune,fineprune  other removal attacks (also overwrite)
#   ATTACKED="paper marks"   keys that all of these are tried on: it is they that take long; others are pruned and inverted
#   WATERMARKS, DATASETS     a part of the study
#   ADD=1                    keep what the CSV files tell of seeds, data sets and keys that are not run now
#   LAUNCHER=basic           one job after the other; without it as many side by side as there are cores
#   STORE, OUT               where runs are kept, and where tables and figures go
#   LOGGER=wandb             every logger of train.py
set -eu
cd "$(dirname "$0")/../.."
HERE=experiments/asiaccs2018
said=
for name in SCALE SEEDS KEYS ATTACKS ATTACKED WATERMARKS DATASETS ADD LAUNCHER; do
  eval "value=\${$name:-}"
  [ -z "$value" ] || case $value in *" "*) said="$said$name=\"$value\" " ;; *) said="$said$name=$value " ;; esac
done
PYTHON=${PYTHON:-.venv/bin/python}
SCALE=${SCALE:-smoke}
SEEDS=${SEEDS:-0}
WATERMARKS=${WATERMARKS:-noise,content,unrelated}
KEYS=${KEYS:-fresh paper negatives marks}
ATTACKS=${ATTACKS:-prune,finetune}
ATTACKED=${ATTACKED:-paper marks random}
STORE=${STORE:-runs/asiaccs2018-$SCALE}
TASK= ATTACK= TUNE=
case $SCALE in
  tiny) all=procedural
    TASK="++dataset.source.n_train=1200 ++dataset.source.n_test=600 trainer.max_epochs=2"
    ATTACK="++attack.inversion.steps=20 judge.n_strangers=9"
    TUNE="++attack.finetune.epochs=1 ++attack.finetune.learning_rates=[0.01,0.1]" ;;
  smoke) all=mnist5k TUNE="++attack.finetune.learning_rates=[0.01,0.03,0.1]" ;;
  paper) all=cifar10,mnist ;; # the long ones first: side by side, the short ones fill the gaps
  *) echo "SCALE=$SCALE is unknown: tiny, smoke or paper" >&2; exit 1 ;;
esac
case $ATTACKS in *overwrite*) TUNE="$TUNE attack.overwrite.learning_rates=[0.01,0.03]" ;; esac
OUT=${OUT:-$( [ "$SCALE" = paper ] && echo "$HERE" || echo "$STORE/results" )}
seeds=$(echo $SEEDS | tr ' ' ',')
started=$(date +%s)
fresh=$( [ -e "$STORE" ] || echo yes )

train() { # shellcheck disable=SC2086 (options are words)
  "$PYTHON" train.py -m "dataset=${DATASETS:-$all}" "seed=$seeds" "runs_dir=$STORE" "group=asiaccs2018-$SCALE" $TASK \
    "hydra/launcher=${LAUNCHER:-joblib}" ${LOGGER:+logger=$LOGGER} "$@"
}
first=asiaccs2018/unmarked attacked= others=
for key in $KEYS; do
  case $key in
    fresh) case $WATERMARKS in *noise*) first=$first,asiaccs2018/fresh ;; esac ;;
    *) case " $ATTACKED " in
      *" $key "*) attacked=$attacked,asiaccs2018/$key ;;
      *) others=$others,asiaccs2018/$key ;;
    esac ;;
  esac
done
train "experiment=$first"
# shellcheck disable=SC2086
[ -z "$others" ] || train "watermark=$WATERMARKS" "experiment=${others#,}" "attack=[prune,inversion]" $ATTACK
# shellcheck disable=SC2086
[ -z "$attacked" ] || train "watermark=$WATERMARKS" "experiment=${attacked#,}" "attack=[$ATTACKS,inversion]" $ATTACK $TUNE
mkdir -p "$OUT" "$STORE/results"
asked="$STORE/results/verification.csv"
# shellcheck disable=SC2086
"$PYTHON" experiments/ownership/power.py --runs "$STORE" --out "$asked" --seeds $SEEDS
# shellcheck disable=SC2086
"$PYTHON" experiments/ownership/verdicts.py --runs "$STORE" --group "asiaccs2018-$SCALE" --seeds $SEEDS \
  ${LOGGER:+--logger "$LOGGER"}
took=${fresh:+"$(( ($(date +%s) - started + 59) / 60 )) minutes from an empty store"}
"$PYTHON" $HERE/tables.py --runs "$STORE" --out "$OUT" --command "${said}make reproduce" --took "$took" ${ADD:+--add} \
  $( [ "$OUT" = "$HERE" ] && echo --readme || true )
echo "the study: $(( $(date +%s) - started )) s, tables and figures in $OUT"
