"""Speed measurements: `python -m bench` runs all of them, `python -m bench.NAME` one; results in bench/results/."""
