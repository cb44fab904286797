#!/usr/bin/env bash
# Speed at the size of Gemma-2 2B, and what steering does to SmolLM2: under 8 minutes on one big GPU.
#
#   benchmarks/gpu.sh [--small] [--data DATA] [--limit N] [FOLDER]
#
# FOLDER, a new one, gets results.md, results.json, and what they are made of; unless told, it is
# outputs/gpu_ with the time. --small: tiny numbers on any machine, with the bundled model, within a
# minute. Without SmolLM2 (make smollm2) there are no results. DATA holds a folder for each task, with
# the authors' files; those that are there are run, as many as there is time for. Nothing is
# downloaded. A part that fails or runs out of time ends no other; the exit status is then 1.
set -uo pipefail
here=$PWD
cd "$(dirname "$0")/.." || exit 2

small='' data='' limit=100 folder=outputs/gpu_$(date +%Y-%m-%d_%H-%M-%S)
absolute() { case $1 in /*) echo "$1" ;; *) echo "$here/$1" ;; esac; }
while (($#)); do
  case $1 in
    --small) small=1 ;;
    --data | --limit)
      (($# > 1)) || { echo "error: $1 needs a value" >&2; exit 2; }
      case $1 in
        --data) data=$(absolute "$2") ;;
        --limit) limit=$2 ;;
      esac
      shift ;;
    -*) echo "error: $1 is unknown: --small, --data DATA, --limit N, FOLDER" >&2; exit 2 ;;
    *) folder=$(absolute "$1") ;;
  esac
  shift
done

python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$folder" || exit 2
if [ -n "$(ls -A "$folder")" ]; then
  echo "error: $folder is not empty: give a new folder" >&2
  exit 2
fi
total=${GPU_SECONDS:-460} # seconds for all parts; the table takes a few more
SECONDS=0 failed=0

# part NAME SECONDS COMMAND...: what it says is in NAME.log; no part takes longer than what is left.
part() {
  local name=$1 most=$2 left=$((total - SECONDS)) start=$SECONDS status=0
  shift 2
  if ((left < 15)); then
    printf '%s\t124\t0\n' "$name" >>"$folder/parts.tsv"
    failed=1
    return
  fi
  echo "$name ..."
  timeout --kill-after=10 "$((most < left ? most : left))" "$@" >"$folder/$name.log" 2>&1 ||
    status=$?
  printf '%s\t%d\t%d\n' "$name" "$status" "$((SECONDS - start))" >>"$folder/parts.tsv"
  if ((status)); then
    failed=1
    tail -n 1 "$folder/$name.log" >&2
  fi
}

# result NAME WORDS...: one run, in runs/NAME.
result() {
  local name=$1
  shift
  part "$name" 200 "$python" -m src.main controls=few side_effects=none descriptions=false "$@" \
    "hydra.run.dir=$folder/runs/$name" "cache=$folder/cache"
}

part speed 270 "$python" -m benchmarks.speed --out "$folder" --weights "$folder/weights" \
  ${small:+--small}
rm -rf "$folder/weights"

if [ -n "$small" ]; then
  result bbq task=bbq limit=24 'layers=[1,3]' collect.shuffles=20
else
  model=(model=smollm2_135m_it "limit=$limit" sae.check=warn)
  tasks=0
  for task in truthfulqa openbookqa blimp ifeval; do
    if [ -n "$data" ] && [ -e "$data/$task" ] && [ -e "conf/task/$task.yaml" ]; then
      result "$task" "${model[@]}" "task=$task" "data=$data/$task"
      tasks=$((tasks + 1))
    fi
  done
  # Made for the bundled model, but English, and there without --data.
  ((tasks)) || result bbq "${model[@]}" task=bbq data=bundled
fi

"$python" -m benchmarks.summary "$folder" || failed=1
rm -rf "$folder/cache"
exit "$failed"
