"""The `ttrl` command with a clock: `python -m bench.timed_ttrl PHASES.json run experiments/demo.yaml ...`

It does what `ttrl` does with the arguments behind the first, and writes the seconds of each phase to the first.
"""

from __future__ import annotations

import time

started = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from bench.phases import Phases  # noqa: E402


def main() -> None:
    """Run the command, then write what it took."""
    phases, target = Phases(), Path(sys.argv.pop(1))
    from ttrl_repro import cli

    cli.prepare_process()
    from ttrl_repro import run as runner
    from ttrl_repro.tracking import Mirror
    from ttrl_repro.trainer import TTRLTrainer

    imported = time.perf_counter() - started
    phases.watch(runner, "prepare", "loading")
    phases.watch(runner._Session, "evaluate", "evaluation")
    phases.watch(runner._Session, "after_step", "record")
    phases.watch(runner._Session, "predict", "record")
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
        target.write_text(json.dumps({"imports": imported, **phases.take()}))


if __name__ == "__main__":
    main()
