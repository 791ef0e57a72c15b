#!/usr/bin/env bash
# The phase diagram: share of misreaders (four bases) x share of exposed questions, three replicates a cell.
#
#   [JOBS=2] [REPLICATES="0 1 2"] experiments/phase.sh FOLDER
set -euo pipefail
folder=${1:?usage: experiments/phase.sh FOLDER}
here=$(dirname "$0")
for pi in 10 25 40 60; do
    for share in 10 33 90; do
        "$here/replicates.sh" "$folder/pi$pi-$share" "$here/laboratory/phase.yaml" -- "model=mini-xs-pi$pi" "task=phase-$share"
    done
done
