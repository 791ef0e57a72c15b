#!/usr/bin/env bash
# Runs of experiment files, three replicates each (draw and RL seed 0, 1, 2), into FOLDER/NAME/rR, JOBS at a time.
# Safe to stop and start again: finished runs are kept, others resumed.
#
#   [JOBS=2] [REPLICATES="0 1 2"] experiments/replicates.sh FOLDER FILE.yaml ... [-- key=value ...]
set -euo pipefail
folder=${1:?usage: experiments/replicates.sh FOLDER FILE.yaml ... [-- key=value ...]}
shift
files=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    files+=("$1")
    shift
done
[ $# -eq 0 ] || shift

one() {
    local run=$1 file=$2 replicate=$3
    shift 3
    if grep -qs '"state": "finished"' "$run/manifest.json"; then
        return
    fi
    mkdir -p "$(dirname "$run")"
    if [ -f "$run/manifest.json" ]; then
        set -- ttrl resume "$run"
    else
        set -- ttrl run "$file" "seeds.draw=$replicate" "seeds.rl=$replicate" --out "$run" "$@"
    fi
    echo "$run"
    "$@" >"$run.log" 2>&1 || { echo "$run failed:" && tail -3 "$run.log" && return 1; } >&2
}
export -f one

for replicate in ${REPLICATES:-0 1 2}; do
    for file in "${files[@]}"; do
        printf '%s\0%s\0%s\0' "$folder/$(basename "$file" .yaml)/r$replicate" "$file" "$replicate"
    done
done | xargs -0 -r -n 3 -P "${JOBS:-1}" bash -c 'one "${@: -3}" "${@:1:$#-3}"' _ "$@"
