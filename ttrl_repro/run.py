"""One experiment from config to finished record: check everything, evaluate the base, train, evaluate."""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from accelerate.utils import gather_object
from filelock import FileLock, Timeout
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ttrl_repro import checkpoints, laboratory
from ttrl_repro.adapters import ADAPTER, has_adapters, with_adapters
from ttrl_repro.algorithms import ALGORITHMS
from ttrl_repro.answers import canonical
from ttrl_repro.config import Evaluate, Experiment
from ttrl_repro.errors import Interrupted, UserError
from ttrl_repro.evaluate import GREEDY, Protocol, evaluate, refuse_too_long
from ttrl_repro.interrupts import on_interrupt
from ttrl_repro.miniature.recipes import recipe_names
from ttrl_repro.models import base_path, is_adapters, load_model
from ttrl_repro.native.support import native_library, unsupported
from ttrl_repro.processes import processes
from ttrl_repro.progress import Progress
from ttrl_repro.prompts import encode_prompts
from ttrl_repro.records import Record, Row, read_jsonl, refuse_occupied, write_atomic
from ttrl_repro.rewards import REWARDS
from ttrl_repro.rollouts import Engine, make_engine
from ttrl_repro.side_models import cannot_carry_critic
from ttrl_repro.summary import codes_by_protocol, headline
from ttrl_repro.tasks import Task, has_fresh_split, load_task
from ttrl_repro.tracking import Mirror, sweep_of_environment, wandb_mode
from ttrl_repro.trainer import StepResult, plan_batches
from ttrl_repro.votes import vote
from ttrl_repro.watch import alarms, last_clear_step, precedes


@dataclass
class Setup:
    """Everything a run needs, loaded and checked before a file is written."""

    experiment: Experiment
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    engine: Engine
    task: Task
    evaluated: list[Task]  # the trained set first, then its fresh twin, then the other tasks
    prompts: dict[str, dict[str, list[int]]]  # (task, split) joined -> question id -> token ids

    def prompts_of(self, task: Task) -> dict[str, list[int]]:
        return self.prompts[f"{task.name}/{task.split}"]


MOSTLY = 0.9  # share of abstentions beyond which a base is warned about


def prepare(experiment: Experiment) -> Setup:
    """Load and check everything. Raises UserError for whatever cannot work; writes nothing."""
    wandb_mode()
    draw = experiment.seeds.draw
    task = load_task(experiment.task, draw)
    evaluated = [task]
    if experiment.evaluate.fresh and has_fresh_split(experiment.task):
        evaluated.append(load_task(experiment.task, draw, "fresh"))
    for name in experiment.evaluate.tasks:
        if name == experiment.task:
            raise UserError(f"evaluate.tasks: {name!r} is the trained task, which is evaluated anyway")
        evaluated.append(load_task(name, draw))
    names = [(t.name, t.split) for t in evaluated]
    if len(set(names)) < len(names):
        raise UserError(f"evaluate.tasks: two tasks have one name ({', '.join(n for n, _ in names)}); rename a file")
    if experiment.reward.needs_gold and not task.labelled:
        raise UserError(f"reward: {experiment.reward.name!r} reads true labels, and {experiment.task} has no answers")
    if experiment.train.only != "all" and not task.labelled:
        raise UserError(
            f"train.only: {experiment.train.only!r} reads true labels, and {experiment.task} has no answers; use all"
        )
    plan_batches(experiment, len(task.questions), processes().num_processes)
    if experiment.train.skip_without_signal is True and processes().num_processes > 1:
        raise UserError(
            "train.skip_without_signal: several processes must have equally many samples, so none can be left out; "
            "use auto or false"
        )
    trainer_of(experiment)
    if torch.cuda.device_count() > 1 and processes().num_processes == 1:
        raise UserError(
            f"this machine has {torch.cuda.device_count()} GPUs and one process was started: use `torchrun "
            f"--nproc_per_node N -m ttrl_repro.cli run ...`, or show it one GPU with CUDA_VISIBLE_DEVICES=0"
        )
    model, tokenizer = load_model(experiment.model, experiment.seeds.base)
    if is_adapters(experiment.model) and (experiment.lora is not None or experiment.algorithm.kl > 0):
        what = "lora" if experiment.lora is not None else "algorithm.kl"
        raise UserError(
            f"model: {experiment.model} holds adapters, whose base {what} would go back to; merge them into their base "
            f"first (PEFT's merge_and_unload and save_pretrained) and give that folder"
        )
    reason = cannot_carry_critic(model) if experiment.algorithm.needs_critic else None
    if reason:
        raise UserError(
            f"algorithm: {experiment.algorithm.name!r} needs a critic, and none can be made from this model "
            f"({reason}); use an algorithm without one, such as grpo or rloo"
        )
    if experiment.lora is not None:
        model = with_adapters(model, experiment.lora, experiment.seeds.rl)
    prompts = {f"{t.name}/{t.split}": encode_prompts(t.questions, tokenizer, experiment.prompt) for t in evaluated}
    for by_id in prompts.values():
        refuse_too_long("rollout.max_new_tokens", experiment.rollout.max_new_tokens, model, by_id)
    engine = make_engine(experiment.rollout.engine, model, tokenizer, experiment.rollout.vllm)
    return Setup(experiment, model, tokenizer, engine, task, evaluated, prompts)


def protocols_of(settings: Evaluate, step: int, last: bool) -> list[Protocol]:
    """How every set is evaluated after `step` steps: the base at all its temperatures, later steps at one.

    last: no step is left, so that as many samples are drawn as of the base.
    """
    temperatures = settings.base_temperatures if step == 0 else (settings.temperature,)
    samples = settings.votes if step == 0 or last else settings.k
    return [GREEDY, *(Protocol(t, settings.top_p, samples) for t in temperatures)]


def evaluation_rows(
    setup: Setup,
    protocols: Sequence[Protocol],
    step: int,
    report: Callable[[int], None] = lambda _: None,
    before_each: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Rows of `records.EVAL`: every set by every protocol, before each of which `before_each()` is called."""
    experiment, rows = setup.experiment, list[Row]()
    for task in setup.evaluated:
        for protocol in protocols:
            before_each()
            rows += evaluate(
                setup.engine,
                setup.tokenizer,
                task,
                setup.prompts_of(task),
                protocol,
                experiment.rollout.max_new_tokens,
                experiment.seeds.rl,
                step,
                experiment.answers,
                report,
            )
    return rows


def trainer_of(experiment: Experiment) -> Any:
    """The class that trains with the experiment's algorithm. Raises UserError if another package's is not there."""
    try:
        return experiment.algorithm.trainer_class()
    except (ImportError, AttributeError) as error:
        algorithm = experiment.algorithm
        raise UserError(f"algorithm: the trainer of {algorithm.name!r}, {algorithm.trainer}: {error}") from error


def start(experiment: Experiment, folder: Path) -> Record:
    """Run an experiment into `folder`. Raises UserError, Interrupted, or what went wrong."""
    refuse_occupied(folder, experiment)
    setup = prepare(experiment)
    state = processes()
    state.wait_for_everyone()  # nobody looks at the folder any more: the main process may fill it
    native = native_library(setup.model)
    if state.is_main_process and isinstance(native, str) and unsupported(setup.model) is None:
        print(f"note: {native}, so this model runs in PyTorch alone, several times slower", file=sys.stderr)
    if state.is_main_process:
        facts = facts_of(setup)
        if facts["laboratory_reason"]:
            reason = facts["laboratory_reason"]
            print(f"note: not of the frozen laboratory: {reason}; claims will refuse this run", file=sys.stderr)
        Record.create(folder, experiment, facts)
    state.wait_for_everyone()
    record = Record.reopen(folder)
    with _locked(folder):
        _run(setup, record, None)
    return record


def resume(folder: Path) -> Record:
    """Continue a run that was interrupted or killed, from its newest checkpoint."""
    record = Record.reopen(folder)
    if record.manifest["state"] == "finished":
        raise UserError(f"{folder}: this run is finished; there is nothing to resume")
    if "trainer" in record.manifest.get("parts", {}):
        raise UserError(f"{folder}: `ttrl run` did not write this record, so it cannot go on with it")
    experiment = record.experiment()
    with _locked(folder):
        checkpoint = checkpoints.newest(folder / "checkpoints")
        setup = prepare(experiment)
        facts = facts_of(setup)
        for key in ("model", "task", "processes", "laboratory"):
            began, found = _known_to(record.manifest, facts, key)
            if began != found:
                raise UserError(f"{folder}: the run began with {key} {began}, now it is {found}")
        for what in ("threads", "native"):
            if record.manifest.get(what, facts[what]) != facts[what]:
                print(
                    f"note: the run began with {what} {record.manifest[what]}, now it is {facts[what]}: "
                    f"the result will agree to rounding, not bitwise",
                    file=sys.stderr,
                )
        updates = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        state = processes()
        state.wait_for_everyone()
        if state.is_main_process:
            step = updates // experiment.train.updates_per_step
            record.note_resumption(step)
            # Without a checkpoint even the base's evaluation is done again: it may be half-written.
            record.rewind(step if checkpoint else -1)
            checkpoints.drop_incomplete(folder / "checkpoints")
            checkpoints.drop_weights(folder / "checkpoints", lambda step: step > record.manifest["steps_done"])
        state.wait_for_everyone()
        record = Record.reopen(folder)  # as the main process has just left it
        _run(setup, record, checkpoint)
    return record


def _known_to(manifest: Row, facts: Row, key: str) -> tuple[Any, Any]:
    """A fact as the record has it, and as it is now: only what the record knows, as an older one lacks newer fields."""
    if key not in manifest:
        return None, None
    began, found = manifest[key], facts[key]
    return began, {name: value for name, value in found.items() if name in began} if isinstance(began, dict) else found


def facts_of(setup: Setup) -> dict[str, Any]:
    """What the manifest says about model, task, parts and machine."""
    experiment = setup.experiment
    miniature = experiment.model in recipe_names()
    base = base_path(experiment.model, experiment.seeds.base) if miniature else None
    tasks, seeds = (experiment.task, *experiment.evaluate.tasks), experiment.seeds
    freeze, reason = laboratory.in_force(experiment.model, seeds.base, base, tasks, seeds.draw)
    return {
        "model": {
            "name": experiment.model,
            "weights": laboratory.base_hash(base) if base else None,
            "recipe": laboratory.base_recipe_hash(base) if base else None,
            "architecture": setup.model.config.model_type,
            "parameters": setup.model.num_parameters(),
            "dtype": str(setup.model.dtype).removeprefix("torch."),
            "revision": getattr(setup.model.config, "_commit_hash", None),  # of a hub model
        },
        "laboratory": freeze,
        "laboratory_reason": reason,
        "task": {
            "name": setup.task.name,  # of a user's file: its stem
            "questions": len(setup.task.questions),
            "labelled": setup.task.labelled,
            "fingerprint": setup.task.fingerprint(),
        },
        "parts": {
            kind: origin
            for kind, origin in (
                ("algorithm", ALGORITHMS.origin(experiment.algorithm.name)),
                ("reward", REWARDS.origin(experiment.reward.name)),
            )
            if origin is not None
        },
        "processes": processes().num_processes,
        "threads": torch.get_num_threads(),
        "engine": setup.engine.name,
        "native": not isinstance(native_library(setup.model), str),
        "device": str(setup.model.device),
        "checkpoint_rule": "last",
        "sweep": sweep_of_environment(),
    }


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the record: two processes must not write one run. The lock dies with its process."""
    state = processes()
    if not state.is_main_process:
        yield
        return
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"{folder}: another process is writing this run") from error


class _Stop:
    """Remembers SIGINT or SIGTERM until the step in progress is over; a second one stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.when = 0.0

    def handle(self, number: int) -> None:
        # A launcher passes on the Ctrl-C that the terminal has sent already: that is not a second one.
        if self.received is not None and time.monotonic() - self.when > 1:
            raise KeyboardInterrupt
        self.received, self.when = number, time.monotonic()


class _Checkpointer(TrainerCallback):
    """Asks for a checkpoint every `checkpoint_every` steps, at the end and on a stop request, and seals it."""

    def __init__(self, experiment: Experiment, stop: _Stop, folder: Path) -> None:
        self.train, self.stop, self.folder = experiment.train, stop, folder

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        step, rest = divmod(state.global_step, self.train.updates_per_step)
        if rest == 0:
            # Every process must come to the same decision, whichever of them heard the signal.
            stopping = any(gather_object([self.stop.received is not None]))
            due = step % self.train.checkpoint_every == 0 or step == self.train.steps
            control.should_save = due or stopping
            control.should_training_stop = control.should_training_stop or stopping
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        processes().wait_for_everyone()  # each one writes its own random state
        if state.is_world_process_zero:
            checkpoints.seal(self.folder / f"checkpoint-{state.global_step}")
        return control


def _run(setup: Setup, record: Record, checkpoint: Path | None) -> None:
    main = processes().is_main_process
    stop, folder, experiment = _Stop(), record.folder, setup.experiment
    state, mirror = "failed", None
    try:
        with on_interrupt(stop.handle), Progress(enabled=main) as progress:
            mirror = Mirror(experiment, folder, record.manifest) if main else None
            if mirror is not None and checkpoint is not None:
                mirror.log_again(record)
            session = _Session(setup, record, mirror, progress, stop)
            gold = {q.id: str(canonical(q.answer)) for q in setup.task.questions} if setup.task.labelled else None
            trainer = trainer_of(experiment)(
                setup.model,
                setup.tokenizer,
                setup.engine,
                experiment,
                setup.prompts_of(setup.task),
                gold,
                folder / "checkpoints",
                session.after_step,
                [_Checkpointer(experiment, stop, folder / "checkpoints")],
            )
            if checkpoint is None and main:
                session.evaluate(0)
            progress.start("training", experiment.train.steps, done=record.manifest["steps_done"], unit="step")
            # Killed between the last checkpoint and the end, there is nothing left to train.
            finished = session.done
            if not finished:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
                finished = trainer.ended or trainer.steps_done == experiment.train.steps
            if finished and main:
                session.finish()
        state = "finished" if finished else "interrupted"
    except KeyboardInterrupt:
        state = "interrupted"
        raise Interrupted(stop.received or signal.SIGINT, f"continue with `ttrl resume {folder}`") from None
    finally:
        if main:
            record.close(state)
        if mirror is not None:
            mirror.close(state)
    if not finished:
        raise Interrupted(stop.received or signal.SIGTERM, f"continue with `ttrl resume {folder}`")


class _Session:
    """What happens around the updates, on the main process: record, mirror and evaluations."""

    def __init__(self, setup: Setup, record: Record, mirror: Mirror | None, progress: Progress, stop: _Stop) -> None:
        self.setup, self.record, self.mirror, self.progress, self.stop = setup, record, mirror, progress, stop
        self.parameters = setup.model.num_parameters()
        self.metrics = read_jsonl(record.folder / "metrics.jsonl")
        self.alarms = alarms(self.metrics, setup.experiment.watch)

    @property
    def done(self) -> bool:
        """Whether no step is left: all are behind us, or the run stopped at an alarm."""
        return bool(self.record.manifest["steps_done"] == self.setup.experiment.train.steps) or self.stopped

    @property
    def stopped(self) -> bool:
        """Whether an alarm ends the run."""
        return self.setup.experiment.watch.stop and bool(self.alarms)

    def after_step(self, result: StepResult) -> bool:
        """Write a step's rows, watch, then evaluate if it is time to. The checkpoint is written after this.

        Returns whether the run ends with this step, before its time.
        """
        for name, value in result.metrics.items():
            if value is not None and not math.isfinite(value):
                raise FloatingPointError(f"step {result.step}: {name} is {value}; the run cannot go on")
        present = {name: value for name, value in result.metrics.items() if value is not None}
        self.record.write_votes(result.step, result.votes)
        self.record.write_samples(result.step, result.samples)
        self.record.append("timings.jsonl", {"step": result.step, **result.timings})
        self.record.append("metrics.jsonl", {"step": result.step, **present})
        self._spend(result.tokens_sampled, result.tokens_prompt, result.tokens_trained, result.timings["seconds"])
        self.record.manifest["steps_done"] = result.step
        self._watch({"step": result.step, **present})
        self.record.save_manifest()
        assert self.mirror is not None
        self.mirror.log(result.step, {**present, **{f"time/{k}": v for k, v in result.timings.items()}})
        self.mirror.log_samples(result.step, result.samples)
        shown = {
            "label accuracy": result.metrics.get("label_accuracy"),
            "majority ratio": result.metrics["majority_ratio"],
        }
        self.progress.advance(note=", ".join(f"{k} {v:.2f}" for k, v in shown.items() if v is not None))
        if result.step % self.setup.experiment.evaluate.every == 0 or self.done:
            self.evaluate(result.step)
            if not self.done and not self.alarms:
                # The label-free rule may come to pick this step, which may have no checkpoint or lose it to pruning.
                checkpoints.keep_weights(self.record.folder / "checkpoints", result.step, self._save)
        self._drop_weights()
        return self.stopped

    def _watch(self, row: Row) -> None:
        """Write down the alarms that this step raises."""
        self.metrics.append(dict(row))
        before, self.alarms = len(self.alarms), alarms(self.metrics, self.setup.experiment.watch)
        self.record.manifest["alarms"] = [asdict(alarm) for alarm in self.alarms]
        for alarm in self.alarms[before:]:
            end = "; the run ends here (watch.stop)" if self.stopped else ""
            self.progress.say(f"alarm, step {alarm.step}: {alarm.reason}{end}")

    def _drop_weights(self) -> None:
        """Of the kept weights, leave those that the label-free rule picks, or may still pick."""
        folder, watch = self.record.folder / "checkpoints", self.setup.experiment.watch
        clear = self.alarms[0].since - 1 if self.alarms else last_clear_step(self.metrics, watch)
        best = max((step for step in checkpoints.kept_steps(folder) if precedes(step, clear)), default=0)
        checkpoints.drop_weights(folder, lambda step: step < best or (step > best and bool(self.alarms)))

    def _save(self, folder: Path) -> None:
        # With a KL term TRL adds a frozen copy of the adapters, which nobody needs to keep.
        chosen = {"selected_adapters": [ADAPTER]} if has_adapters(self.setup.model) else {}
        self.setup.model.save_pretrained(folder, **chosen)
        self.setup.tokenizer.save_pretrained(folder)

    def _spend(self, sampled: int, prompt: int, trained: int, seconds: float) -> None:
        """Count tokens, seconds and FLOPs: 2 per parameter and token forward, 6 forward and backward.

        Networks beside the policy count as they are trained: on every trained token.
        """
        cost = self.record.manifest["cost"]
        cost["tokens_sampled"] += sampled
        cost["tokens_trained"] += trained
        beside = self.setup.experiment.algorithm.side_flops
        cost["flops"] += self.parameters * (2.0 * (sampled + prompt) + (6.0 + beside) * trained)
        cost["seconds"] = round(cost["seconds"] + seconds, 3)
        # Of this process since its start, evaluations included; Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        cost["peak_memory_bytes"] = max(cost.get("peak_memory_bytes", 0), peak)

    def evaluate(self, step: int) -> None:
        """Evaluate every task as the protocol of this step asks, and write the rows."""
        setup, settings = self.setup, self.setup.experiment.evaluate
        protocols = protocols_of(settings, step, last=self.done)
        name = "evaluating the base" if step == 0 else f"evaluating step {step}"
        samples = sum(len(task.questions) for task in setup.evaluated) * sum(p.samples for p in protocols)
        self.progress.start(name, samples, unit="sample")

        def stop_if_asked() -> None:
            if step == 0 and self.stop.received is not None:
                raise KeyboardInterrupt  # nothing is lost: a run without a checkpoint starts over

        rows = evaluation_rows(setup, protocols, step, lambda n: self.progress.advance(amount=n), stop_if_asked)
        self.progress.finish()
        self.record.write_eval(step, rows)
        abstained = sum(row["key"] is None for row in rows) / len(rows)
        if step == 0 and abstained > MOSTLY:
            self.progress.say(
                f"warning: {abstained:.0%} of the base's samples have no \\boxed{{}} answer, so there is little to "
                f"vote on; ask for one with prompt.suffix=boxed, or raise rollout.max_new_tokens"
            )
        assert self.mirror is not None
        self.mirror.log(step, headline(codes_by_protocol(rows), settings.k))

    def finish(self) -> None:
        """The end of a run: predictions, and in the manifest why there are no more steps, if it stopped early."""
        self._predict()
        steps, manifest = self.setup.experiment.train.steps, self.record.manifest
        if self.stopped and manifest["steps_done"] < steps:
            manifest["stopped_early"] = f"watch.stop: {self.alarms[0].reason}"
        if not self.alarms:
            checkpoints.drop_weights(self.record.folder / "checkpoints")  # the rule picks the last checkpoint

    def _predict(self) -> None:
        """predictions.jsonl: the vote of the trained model on every trained question."""
        task = self.setup.task
        table = pq.read_table(self.record.folder / "eval" / f"step-{self.record.manifest['steps_done']:06d}.parquet")
        answers: dict[str, list[str | None]] = {question.id: [] for question in task.questions}
        for row in table.to_pylist():
            if (row["task"], row["split"], row["protocol"]) == (task.name, task.split, "sampled"):
                answers[row["question_id"]].append(row["answer"])
        lines = []
        for question, given in answers.items():
            outcome = vote(given)
            lines.append({"id": question, "answer": outcome.label, "share": outcome.majority_ratio})
        write_atomic(self.record.folder / "predictions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
