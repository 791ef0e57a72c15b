"""The `ttrl` command with a clock: `python -m bench.timed_ttrl START PHASES.json run experiments/demo.yaml ...`

It does what `ttrl` does with the arguments behind the second, and writes the seconds of each phase to PHASES.json.
START: when the process was started, in seconds since the epoch.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from bench.phases import Phases


def main() -> None:
    """Run the command, then write what it took."""
    phases, started, target = Phases(), float(sys.argv.pop(1)), Path(sys.argv.pop(1))
    from ttrl_repro import cli
    from ttrl_repro import run as runner
    from ttrl_repro.records import Record
    from ttrl_repro.tracking import Mirror
    from ttrl_repro.trainer import TTRLTrainer

    imported = time.time() - started
    phases.watch(runner, "prepare", "loading")
    phases.watch(runner._Session, "evaluate", "evaluation")
    phases.watch(runner._Session, "after_step", "record")
    phases.watch(runner._Session, "predict", "record")
    phases.watch(Record, "close", "record")
    phases.watch(cli, "print_outcome", "table")
    phases.watch(Mirror, "__init__", "W&B")
    phases.watch(Mirror, "log", "W&B")
    phases.watch(Mirror, "close", "W&B")
    phases.watch(TTRLTrainer, "__init__", "loading")
    phases.watch(TTRLTrainer, "train", "training")
    phases.watch(TTRLTrainer, "_save_checkpoint", "checkpoints")
    phases.watch(TTRLTrainer, "_sample_and_vote", "voting")
    phases.watch(TTRLTrainer, "_sample", "sampling")
    try:
        cli.main()
    finally:
        target.write_text(json.dumps({"start-up": imported, **phases.take()}))


if __name__ == "__main__":
    main()
