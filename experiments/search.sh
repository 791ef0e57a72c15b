#!/usr/bin/env bash
# The grid on which selectors of settings are compared; then searches over settings, five with the label-free objective and
# five with true labels, and what each keeps trained again on three other draws. Safe to stop and start again.
#
#   experiments/search.sh FOLDER
#   python paper_figures/table_selection.py --records FOLDER
set -euo pipefail
folder=${1:?usage: experiments/search.sh FOLDER}
here=$(dirname "$0")
sweeps=$here/../sweeps
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

failed=
sweep() { ttrl sweep run "$sweeps/$1.yaml" --seed "$2" --agents 2 --folder "$3" || failed="$failed $3"; }

sweep search-grid 0 "$folder/grid"
for seed in 0 1 2 3 4; do
    for objective in label-free true-labels; do
        search=$folder/$objective-$seed
        sweep "search-$objective" "$seed" "$search"
        settings=$(python -m analysis.selection "$search" "$objective")
        read -r -a overrides <<<"$settings"
        # In a folder by its settings: a search that goes on and keeps others does not find these in their place.
        JOBS=2 REPLICATES="1 2 3" "$here/replicates.sh" "$folder/again/$objective-$seed/${settings// /_}" \
            "$here/search.yaml" -- "${overrides[@]}"
    done
done
[ -z "$failed" ] || { echo "not finished:$failed (ttrl sweep status FILE --folder ..., then retry)" >&2 && exit 1; }
