"""Speed measurements: `python -m bench` runs all of them, `python -m bench.NAME` one; results in bench/results/.

Every process that is measured, a peer's too, starts with the project's settings for threads and memory.
"""

from ttrl_repro.startup import prepare_process

prepare_process()
