#!/usr/bin/env bash
# The phase diagram: share of misreaders x share of exposed questions, three replicates a cell, each with a base, a
# question draw and an RL seed of its own: replicate r has base seed, draw and RL seed r. Pretrains the twelve bases
# first (three minutes each), where they are missing; the first that fails ends it. Safe to stop and start again.
#
#   [JOBS=2] experiments/phase.sh FOLDER
set -euo pipefail
folder=${1:?usage: experiments/phase.sh FOLDER}
here=$(dirname "$0")

base() {
    local log=$3
    ttrl pretrain "mini-xs-pi$1" --seed "$2" >/dev/null 2>"$log" && return
    grep -q "is not empty" "$log" && return # made before
    { echo "pretraining mini-xs-pi$1, seed $2, failed:" && tail -3 "$log"; } >&2
    return 255 # on which xargs starts no other
}
export -f base

mkdir -p "$folder"
for pi in 10 25 40 60; do
    for seed in 0 1 2; do
        printf '%s\0%s\0%s\0' "$pi" "$seed" "$folder/base-pi$pi-$seed.log"
    done
done | xargs -0 -n 3 -P "${JOBS:-1}" bash -c 'base "$@"' _

for replicate in 0 1 2; do
    for pi in 10 25 40 60; do
        for share in 10 33 90; do
            printf '%s\0%s\0%s\0' "$replicate" "$pi" "$share"
        done
    done
done | xargs -0 -n 3 -P "${JOBS:-1}" bash -c \
    'REPLICATES=$2 "$0/replicates.sh" "$1/pi$3-$4" "$0/laboratory/phase.yaml" -- "model=mini-xs-pi$3" "task=phase-$4" "seeds.base=$2"' \
    "$here" "$folder"
