#!/usr/bin/env bash
# Searches over settings, five with the label-free objective and five with true labels, and what each keeps trained again
# on three other draws; then the grid on which selectors are compared. Safe to stop and start again.
#
#   experiments/search.sh FOLDER
#   python paper_figures/table_selection.py --records FOLDER
set -euo pipefail
folder=${1:?usage: experiments/search.sh FOLDER}
here=$(dirname "$0")
sweeps=$here/../sweeps
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

ttrl sweep run "$sweeps/search-grid.yaml" --agents 2 --folder "$folder/grid"
for seed in 0 1 2 3 4; do
    for objective in label-free true-labels; do
        search=$folder/$objective-$seed
        ttrl sweep run "$sweeps/search-$objective.yaml" --seed "$seed" --agents 2 --folder "$search"
        read -r -a settings <<<"$(python -m analysis.selection "$search" "$objective")"
        JOBS=2 REPLICATES="1 2 3" "$here/replicates.sh" "$folder/again/$objective-$seed" "$here/search.yaml" -- "${settings[@]}"
    done
done
