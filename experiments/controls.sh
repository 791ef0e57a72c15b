#!/usr/bin/env bash
# The controls of the trainer, three replicates each (draw and RL seed 0, 1, 2), into FOLDER/NAME/rR.
# Safe to stop and start again: finished runs are kept, others resumed.
set -euo pipefail
folder=${1:?usage: experiments/controls.sh FOLDER [NAME ...]}
shift
here=$(dirname "$0")
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(control-majority control-oracle control-permuted control-format)
for replicate in 0 1 2; do
    for name in "${names[@]}"; do
        run="$folder/$name/r$replicate"
        if grep -qs '"state": "finished"' "$run/manifest.json"; then
            continue
        elif [ -f "$run/manifest.json" ]; then
            ttrl resume "$run"
        else
            ttrl run "$here/$name.yaml" "seeds.draw=$replicate" "seeds.rl=$replicate" --out "$run"
        fi
    done
done
