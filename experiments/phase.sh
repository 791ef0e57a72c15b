#!/usr/bin/env bash
# The phase diagram: share of misreaders x share of exposed questions, three replicates a cell, each with a base, a
# question draw and an RL seed of its own: replicate r has base seed, draw and RL seed r. A job pretrains one of the
# twelve bases, where it is missing, and makes its three runs; the first pretraining that fails ends it. Safe to stop and
# start again.
#
#   [JOBS=2] experiments/phase.sh FOLDER
set -euo pipefail
folder=${1:?usage: experiments/phase.sh FOLDER}
here=$(dirname "$0")

job() {
    local here=$1 folder=$2 pi=$3 seed=$4 log=$2/base-pi$3-$4.log share status=0
    if ! ttrl pretrain "mini-xs-pi$pi" --seed "$seed" >/dev/null 2>"$log" && ! grep -q "is not empty" "$log"; then
        { echo "pretraining mini-xs-pi$pi, seed $seed, failed:" && tail -3 "$log"; } >&2
        return 255 # on which xargs starts no other
    fi
    for share in 10 33 90; do
        REPLICATES=$seed "$here/replicates.sh" "$folder/pi$pi-$share" "$here/laboratory/phase.yaml" -- \
            "model=mini-xs-pi$pi" "task=phase-$share" "seeds.base=$seed" || status=1
    done
    return $status
}
export -f job

mkdir -p "$folder"
for seed in 0 1 2; do
    for pi in 10 25 40 60; do
        printf '%s\0%s\0' "$pi" "$seed"
    done
done | xargs -0 -n 2 -P "${JOBS:-1}" bash -c 'job "$0" "$1" "$2" "$3"' "$here" "$folder"
