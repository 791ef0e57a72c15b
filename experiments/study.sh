#!/usr/bin/env bash
# The study: the confirmatory arms, replicate by replicate, then every sweep, by two agents each. Safe to stop and start
# again: finished runs are kept, others resumed. Bases that are not shipped are pretrained first, one after another.
#
#   experiments/study.sh FOLDER [SWEEP ...]       SWEEP: names in sweeps/; without any: all of it, confirmatory arms first
#   ttrl keep FOLDER paper_figures/data/study     keeps what figures need of what has finished
set -euo pipefail
folder=${1:?usage: experiments/study.sh FOLDER [SWEEP ...]}
shift
here=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

mkdir -p "$folder"
base() {
    local log="$folder/base-$1-$2.log"
    ttrl pretrain "$1" --seed "$2" 2>"$log" || grep -q "is not empty" "$log" || { tail -3 "$log" >&2 && return 1; }
}

if [ $# -eq 0 ]; then
    for seed in 1 2; do base mini-s "$seed"; done
    for replicate in 0 1 2 3 4 5 6 7 8 9; do
        JOBS=2 REPLICATES=$replicate "$here/replicates.sh" "$folder/confirm" "$here"/confirm/*.yaml -- \
            "seeds.base=$((replicate % 3))"
    done
    set -- transfer rewards lucky-hit algorithm noisy-oracle votes failures-equal-samples failures-equal-updates levels \
        transfer-83 size-30 size-83 long transfer-500 size-500
fi
failed=
for sweep in "$@"; do
    file=$here/../sweeps/$sweep.yaml
    for size in mini-xs mini-s mini-m; do # a sweep that names no size is of mini-xs (experiments/study.yaml)
        if grep -q "$size" "$file" || { [ $size = mini-xs ] && ! grep -q "model:" "$file"; }; then
            for seed in 1 2; do base "$size" "$seed"; done
        fi
    done
    ttrl sweep run "$file" --agents 2 --folder "$folder/$sweep" || failed="$failed $sweep"
done
[ -z "$failed" ] || { echo "not finished:$failed (ttrl sweep status FILE --folder ..., then retry)" >&2 && exit 1; }
