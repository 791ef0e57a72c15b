"""Steps of the real TTRL trainer as a worker, and what a benchmark may vary of them.

As a worker (see bench/worker.py): `python -m bench.ttrl_step '{"overrides": ["model=mini-xs"], ...}'` with the fields
of `Steps`. A step is what `ttrl run` does between two evaluations: sampling, votes, update and the record of it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from transformers import PreTrainedModel

from bench import flops
from bench.harness import ROOT
from bench.phases import Phases
from bench.worker import Turns, only_answers_on_stdout, python
from ttrl_repro import run as runner
from ttrl_repro.algorithms import GRPO
from ttrl_repro.config import Experiment, load_experiment
from ttrl_repro.miniature.pretrain import build_model
from ttrl_repro.miniature.recipes import Architecture
from ttrl_repro.native.logprobs import LogProbs
from ttrl_repro.rollouts import Engine, Samples
from ttrl_repro.rollouts.cpu import CpuEngine
from ttrl_repro.trainer import StepResult, TTRLTrainer

EXPERIMENT = ROOT / "experiments" / "demo.yaml"
NEVER = -1  # an end-of-sequence token that no model samples


@dataclass(frozen=True)
class Steps:
    """overrides: of experiments/demo.yaml, as `ttrl run` takes them.

    skip: rows without signal are left out of the update, as always. endless: completions go on to max_new_tokens.
    keys: tell the key of every sample, by question. architecture: fields of a randomly initialised model that takes
    the place of the experiment's.
    """

    overrides: tuple[str, ...] = ()
    skip: bool = True
    endless: bool = False
    keys: bool = False
    architecture: Mapping[str, int] | None = None

    def command(self) -> list[str]:
        """The worker's command."""
        return python("bench.ttrl_step", json.dumps(self.__dict__))


class Watch:
    """Counts what an engine and a trainer do: positions run, operations, samples."""

    def __init__(self, engine: Engine, model: PreTrainedModel, phases: Phases) -> None:
        self.shape = flops.Shape.of(model.config)
        self.counts: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.padded: Counter[str] = Counter()
        sample, flatten = phases.around("sampling", engine.sample), LogProbs.flatten

        def counted(prompts: list[list[int]], *arguments: Any, **named: Any) -> Samples:
            samples: Samples = sample(prompts, *arguments, **named)
            rows = [(len(prompt), row.tolist()) for prompt, row in zip(prompts, samples.lengths_QN, strict=True)]
            self.counts["sampling"] += sum(p + sum(lengths) - len(lengths) for p, lengths in rows)
            self.counts["tokens"] += samples.n_tokens
            self.counts["samples"] += samples.lengths_QN.size
            self.operations["sampling"] += flops.sampling(self.shape, rows)
            self.padded["sampling"] += flops.padded_sampling(self.shape, rows)
            return samples

        def flattened(logprobs: LogProbs, *arguments: Any, **named: Any) -> Any:
            parts = flatten(logprobs, *arguments, **named)
            phases.around("measuring", self.count_rows)(parts)
            return parts

        engine.sample = phases.around("measuring", counted)  # type: ignore[method-assign]
        LogProbs.flatten = flattened  # type: ignore[method-assign]

    def count_rows(self, parts: Sequence[Any]) -> None:
        """Count the rows of a training pass, which the native code has flattened into `parts`."""
        for part in parts:
            lengths, prompt_of = part.alive[3:5]
            rows: dict[int, list[int]] = {i: [] for i in range(len(prompt_of)) if prompt_of[i] < 0}
            for length, prompt in zip(lengths.tolist(), prompt_of.tolist(), strict=True):
                if prompt >= 0:
                    rows[prompt].append(length + 1)  # its last token is not run
            by_prompt = [(int(lengths[i]), completions) for i, completions in rows.items()]
            self.counts["training"] += int(part.c.tokens)
            self.operations["training"] += flops.training(self.shape, by_prompt)
            self.padded["training"] += flops.padded_training(self.shape, by_prompt)

    def take(self) -> dict[str, dict[str, float]]:
        """What was counted since the last call."""
        counters = {"positions": self.counts, "operations": self.operations, "padded_operations": self.padded}
        taken = {name: dict(counter) for name, counter in counters.items()}
        for counter in counters.values():
            counter.clear()
        return taken


def keys_of(result: StepResult) -> list[list[str | None]]:
    """The samples' keys in order, by question."""
    found: dict[str, list[str | None]] = {}
    for row in result.samples:
        found.setdefault(row["question_id"], []).append(row["key"])
    return list(found.values())


def serve(steps: Steps, answers: IO[str], folder: Path) -> None:
    """Run the experiment as `ttrl run` does, without its evaluations; every step waits for a request."""
    phases = Phases()
    last: list[StepResult] = []
    prepare = runner.prepare

    def prepared(experiment: Experiment) -> runner.Setup:
        setup = prepare(experiment)
        if steps.architecture is not None:
            setup.model = build_model(Architecture(**steps.architecture), 0).eval()
        if steps.architecture is not None or steps.endless:
            eos = NEVER if steps.endless else setup.tokenizer.eos_token_id
            setup.engine = CpuEngine(setup.model, [eos], setup.tokenizer.pad_token_id)
        return setup

    class Watched(TTRLTrainer):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            watch = Watch(self.engine, self.model, phases)
            phases.watch(self, "_sample_and_vote", "voting")  # the engine, inside of it, counts for itself
            phases.watch(self, "_compute_loss", "forward")
            phases.watch(self.accelerator, "backward", "backward")
            phases.watch(self.accelerator, "clip_grad_norm_", "optimizer")
            self.create_optimizer()
            phases.watch(self.optimizer, "step", "optimizer")
            record = phases.around("record", self.on_step)

            def on_step(result: StepResult) -> None:
                last[:] = [result]
                record(result)

            def report() -> dict[str, Any]:
                shown = ("label_accuracy", "majority_ratio", "samples_per_question")
                metrics = {name: last[0].metrics[name] for name in shown if name in last[0].metrics}
                told = {"phases": phases.take(), **watch.take(), "metrics": metrics}
                return {**told, "keys": keys_of(last[0])} if steps.keys else told

            self.on_step = on_step
            self.add_callback(Turns(answers, report))

        @property
        def _may_skip(self) -> bool:
            return steps.skip and super()._may_skip

    runner.prepare = prepared
    GRPO.trainer_class = lambda _: Watched  # type: ignore[method-assign]
    runner._Session.evaluate = lambda *_: None  # type: ignore[method-assign]
    endlessly = ["train.steps=1000000", "train.checkpoint_every=1000000", "tracking.wandb=false"]
    runner.start(load_experiment(EXPERIMENT, [*steps.overrides, *endlessly]), folder)


def main() -> None:
    """Serve steps."""
    answers = only_answers_on_stdout()
    fields = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        serve(Steps(**{**fields, "overrides": tuple(fields["overrides"])}), answers, Path(folder) / "record")


if __name__ == "__main__":
    main()
