"""The TTRL trainer: rollout -> vote -> reward -> update, on `trl.GRPOTrainer` through its hooks.

A *step* is one rollout and the `updates_per_step` optimizer updates made from it. Differences from
the released TTRL code: the label comes from all N votes (their first release voted over the trained
samples only); the trained G are a seeded draw, not the first G; samples without an answer never vote;
votes and rewards use the same notion of equality.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler, selective_log_softmax

from ttrl_repro import metrics
from ttrl_repro.adapters import has_adapters
from ttrl_repro.adaptive import SequentialRule
from ttrl_repro.answers import Extraction, extraction, outcome, right_class
from ttrl_repro.config import Experiment
from ttrl_repro.errors import UserError
from ttrl_repro.frozen import FrozenLabel, read_frozen, write_frozen
from ttrl_repro.native.logprobs import LogProbs
from ttrl_repro.native.support import native_library
from ttrl_repro.processes import processes
from ttrl_repro.records import Row
from ttrl_repro.rewards import Rollouts
from ttrl_repro.rollouts import Engine, Samples, Sampling, sample_until_decided, uniforms
from ttrl_repro.seeds import derive_seed, generator
from ttrl_repro.side_models import SideModel
from ttrl_repro.updates import by_length, by_prompt, rearranged, with_signal
from ttrl_repro.votes import Vote, vote

# The mask of NumPy and PyTorch seeds: Trainer hands its seed to both, and NumPy takes 32 bits.
SEED_MASK = 2**32 - 1


@dataclass(frozen=True)
class _Group:
    """One question's N samples and what was made of them; travels between processes."""

    question_id: str
    texts: list[str]
    answers: list[str | None]
    fallbacks: int  # answers that were not in a box
    outcomes: Counter[str]  # what came of parsing the answers
    vote: Vote
    trained: np.ndarray  # indices of the G samples that train, (G,)
    lengths: np.ndarray  # (N,)
    finished: np.ndarray  # (N,)
    mean_logprobs: np.ndarray  # (N,)
    entropies: np.ndarray  # mean over each sample's tokens, nats, (N,)
    certainties: np.ndarray | None  # the same of the self-certainty; None: the engine gives none
    entropy: float  # sum over all tokens of all samples, nats
    prompt_tokens: int


@dataclass(frozen=True)
class _Pending:
    """A rollout whose updates are still under way."""

    groups: list[_Group]
    rollouts: Rollouts
    rewards_QN: np.ndarray
    targets_Q: Sequence[str | None] | None  # keys of the labels that the reward teaches, where it has any
    kept_Q: np.ndarray  # bool: whether a question is trained on
    advantages_QG: np.ndarray  # of the trained samples; 0 for questions that are not kept
    sampling_seconds: float
    voting_seconds: float


# Rows without advantage can be left out of these losses of TRL's: of those that divide by a number known
# beforehand (of the rollout's tokens) as they are, of those that divide by the rows at hand by rescaling.
SKIPS = {"dapo": "as it is", "dr_grpo": "per row", "luspo": "per row"}

FROZEN = "frozen_labels.json"  # in the record, where the reward is agreement with labels from before training

SIDE_MODELS = "side_models.pt"  # in a checkpoint, where the algorithm has networks beside the policy

PROBED = 8  # rows of a step whose log-probabilities are checked against the model's own forward pass

MOST_GAP = 1e-2  # between sampler and trainer, in fp32 on a CPU, where rounding stays below 1e-3


@dataclass(frozen=True)
class StepResult:
    """One step, for the record. `step` counts from 1: step 1 samples from the base's weights."""

    step: int
    metrics: dict[str, float | None]
    timings: dict[str, float]
    votes: list[Row]
    samples: list[Row]
    tokens_sampled: int
    tokens_trained: int  # prompts included
    tokens_prompt: int


@dataclass(frozen=True)
class Plan:
    """Batch sizes that TRL neither drops from nor splits groups across. Made by `plan_batches`."""

    microbatch: int  # samples per process and forward pass
    accumulation: int  # forward passes per update
    forwards_per_step: int


def plan_batches(experiment: Experiment, n_questions: int, processes: int = 1) -> Plan:
    """How a step divides into updates, forward passes and processes.

    Raises UserError where TRL would silently drop questions, or let a group span two processes (a vote
    would then see a part of it).
    """
    train, g = experiment.train, experiment.rollout.trained
    per_step = train.questions_per_step or n_questions
    if n_questions % per_step:
        fits = [d for d in range(1, n_questions + 1) if n_questions % d == 0 and d % processes == 0]
        raise UserError(
            f"train.questions_per_step: {per_step} does not divide the task's {n_questions} questions "
            f"({n_questions % per_step} would never be trained on); use one of {fits}"
        )
    if experiment.reward.name == "permuted" and per_step < 2:
        raise UserError("train.questions_per_step: reward 'permuted' needs 2 or more")
    if per_step % processes:
        raise UserError(
            f"train.questions_per_step: {per_step} questions do not divide over {processes} processes; "
            f"a question's samples must stay on one process"
        )
    samples = per_step * g // processes
    if samples % train.updates_per_step:
        raise UserError(
            f"train.updates_per_step: {train.updates_per_step} does not divide the {samples} trained samples "
            f"of a step (train.questions_per_step x rollout.trained, per process)"
        )
    per_update = samples // train.updates_per_step
    most = train.microbatch or per_update
    microbatch = max(size for size in range(1, min(most, per_update) + 1) if per_update % size == 0)
    accumulation = per_update // microbatch
    return Plan(microbatch, accumulation, accumulation * train.updates_per_step)


class _EpochSampler(RepeatSampler):
    """TRL's sampler with an order that is a function of (seed, epoch): TRL's replays epoch 0 after a resume."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(derive_seed(self.seed, "order", self.epoch))
        return super().__iter__()


def _given_rewards(reward: Sequence[float], **_: Any) -> list[float]:
    """TRL's reward function: the rewards were made with the rollout, where the votes are known."""
    return list(reward)


class TTRLTrainer(GRPOTrainer):
    """RL on pseudo-labels with an algorithm whose advantages are per sample.

    Algorithms with networks of their own subclass it (`token_advantages`, `side_models`).

    `gold` (question id -> key of the true label) is for diagnostics, for a reward that declares
    `needs_gold` and for `train.only`; nothing else reads it. `folder`: the record's, for checkpoints.
    `on_step` is called after every step, on the main process; with `watch.stop` a true answer ends the training
    there, with a checkpoint (`ended` then says so, on every process).
    """

    _buffered_inputs: list[dict[str, torch.Tensor]]  # TRL's: the forward passes of the step under way

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        engine: Engine,
        experiment: Experiment,
        prompts: Mapping[str, list[int]],
        gold: Mapping[str, str] | None,
        folder: Path,
        on_step: Callable[[StepResult], bool | None],
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.experiment, self.engine, self.prompts = experiment, engine, prompts
        self.gold, self.on_step = gold, on_step
        self.algorithm, self.reward = experiment.algorithm, experiment.reward
        if self.reward.needs_gold and gold is None:
            raise UserError(f"reward: {self.reward.name!r} reads true labels, and the task has none")
        if experiment.train.only != "all" and gold is None:
            raise UserError(f"train.only: {experiment.train.only!r} reads true labels, and the task has none")
        if self.reward.needs_distributions and not engine.sees_distributions:
            raise UserError(
                f"reward: {self.reward.label()!r} needs the distributions that tokens come from, which engine "
                f"{engine.name!r} does not give; use rollout.engine 'auto', 'cpu' or 'transformers'"
            )
        self.frozen_path = folder.parent / FROZEN
        self.frozen: dict[str, FrozenLabel] | None = None
        count = processes().num_processes
        self.plan = plan_batches(experiment, len(prompts), count)
        self.ended = False
        self._pending: _Pending | None = None
        self._step_started = 0.0
        self._old_logps_known = False
        self._native: dict[int, LogProbs] = {}
        # From subclasses: metrics of the step under way, and networks that checkpoints must hold.
        self.extra_metrics: dict[str, float] = {}
        self.side_models: dict[str, SideModel] = {}
        super().__init__(
            model=model,
            reward_funcs=_given_rewards,
            args=_arguments(experiment, self.plan, folder, count),
            # Questions travel by id: the rollout looks up everything else, and no label can come along.
            train_dataset=Dataset.from_dict({"prompt": list(prompts)}),
            processing_class=tokenizer,
            callbacks=callbacks,
            rollout_func=TTRLTrainer._rollout,
        )
        self.remove_callback(PrinterCallback)  # the record has every number

    @property
    def steps_done(self) -> int:
        """Whole steps behind us."""
        return int(self.state.global_step // self.experiment.train.updates_per_step)

    # -- before training --------------------------------------------------------------------------

    def train(self, *arguments: Any, **named: Any) -> Any:
        """TRL's. The weights are the base's here, also where a run goes on: its checkpoint is loaded further in."""
        if self.reward.needs_frozen:
            self.frozen = self._frozen_labels()
        return super().train(*arguments, **named)

    def _frozen_labels(self) -> dict[str, FrozenLabel]:
        """The base's vote on every question: the record's where it has them, else sampled now and written there."""
        main, ids = self.accelerator.is_main_process, list(self.prompts)
        known = read_frozen(self.frozen_path, ids) if main and self.frozen_path.exists() else None
        [known] = broadcast_object_list([known])
        if known is not None:
            return known
        mine = ids[self.accelerator.process_index :: self.accelerator.num_processes]
        seed = derive_seed(self.experiment.seeds.rl, "frozen")
        samples, drawn_Q = self._sample(mine, seed)
        groups = [self._vote_on(question, q, samples, int(drawn_Q[q]), seed) for q, question in enumerate(mine)]
        voted: list[tuple[str, FrozenLabel]] = gather_object(
            [(group.question_id, FrozenLabel.of(group.vote, int(group.lengths.sum()))) for group in groups]
        )
        by_id = dict(voted)
        labels = {question: by_id[question] for question in ids}
        if main:
            write_frozen(self.frozen_path, labels)
        return labels

    # -- rollout -> vote -> reward ---------------------------------------------------------------

    @staticmethod
    def _rollout(prompts: list[str], trainer: TTRLTrainer) -> dict[str, list[Any]]:
        """TRL's rollout hook: `prompts` holds each of this process's question ids G times in a row."""
        return trainer._sample_and_vote(prompts[:: trainer.num_generations])

    def _sample_and_vote(self, ids: list[str]) -> dict[str, list[Any]]:
        started = time.perf_counter()
        seed = derive_seed(self.experiment.seeds.rl, "rollout", self.steps_done)
        samples, drawn_Q = self._sample(ids, seed)
        sampled = time.perf_counter()
        mine = [self._vote_on(question, q, samples, int(drawn_Q[q]), seed) for q, question in enumerate(ids)]
        # A reward may compare questions with one another, and so may a metric: they see every process's.
        groups: list[_Group] = gather_object(mine)
        rollouts = Rollouts(
            [group.question_id for group in groups],
            [group.vote.keys for group in groups],
            [group.vote for group in groups],
            self._gold_of(groups) if self.reward.needs_gold else None,
            derive_seed(seed, "reward"),
            derive_seed(self.experiment.seeds.rl, "reward"),
            [group.mean_logprobs for group in groups],
            [group.entropies for group in groups],
            _certainties(groups),
            [self.frozen[group.question_id].key for group in groups] if self.frozen is not None else None,
        )
        rewards_QN, targets_Q = self.reward.rewards(rollouts), self.reward.targets(rollouts)
        kept_Q = self.reward.keeps(rollouts) & self._chosen(rollouts, targets_Q, groups)
        trained_QG = np.stack([group.trained for group in groups])
        rewards_QG = np.take_along_axis(rewards_QN, trained_QG, axis=1)
        advantages_QG = np.zeros(rewards_QG.shape)
        if kept_Q.any():
            # Other questions have no part in a baseline either.
            advantages_QG[kept_Q] = self.algorithm.advantages(rewards_QG[kept_Q])
        voted = time.perf_counter()
        self._pending = _Pending(
            groups, rollouts, rewards_QN, targets_Q, kept_Q, advantages_QG, sampled - started, voted - sampled
        )
        first = self.accelerator.process_index * len(ids)
        rows = [(q, int(n)) for q, group in enumerate(mine) for n in group.trained]
        return {
            "prompt_ids": [self.prompts[ids[q]] for q, _ in rows],
            "completion_ids": [samples.ids(q, n) for q, n in rows],
            "logprobs": [samples.logprobs(q, n) for q, n in rows],
            "reward": [float(rewards_QN[first + q, n]) for q, n in rows],
        }

    def _chosen(
        self, rollouts: Rollouts, targets_Q: Sequence[str | None] | None, groups: Sequence[_Group]
    ) -> np.ndarray:
        """Bool (Q,): what `train.only` trains on."""
        only = self.experiment.train.only
        if only == "all":
            return np.ones(len(groups), dtype=bool)
        assert targets_Q is not None
        return metrics.right_labels(rollouts, targets_Q, self._gold_of(groups)) == (only == "right_label")

    def _sample(self, ids: list[str], seed: int) -> tuple[Samples, np.ndarray]:
        """The samples of each question, and how many it got: all, or as many as decided its vote."""
        settings = self.experiment.rollout
        prompts = [self.prompts[i] for i in ids]
        uniforms_QNT = uniforms(seed, ids, settings.votes, settings.max_new_tokens)
        sampling = Sampling(settings.temperature, settings.top_p, settings.max_new_tokens)
        if settings.adaptive_error is None:
            return self.engine.sample(prompts, uniforms_QNT, sampling), np.full(len(ids), settings.votes)
        rule = SequentialRule(settings.votes, settings.adaptive_chunk, settings.adaptive_error)
        return sample_until_decided(
            self.engine, prompts, uniforms_QNT, sampling, rule, settings.trained, self._answers_of
        )

    def _answers_of(self, completions: list[list[int]]) -> list[str | None]:
        found = [self._extraction(text) for text in self._texts(completions)]
        return [one.answer if one else None for one in found]

    def _texts(self, completions: list[list[int]]) -> list[str]:
        return self.processing_class.batch_decode(completions, skip_special_tokens=True)

    def _extraction(self, text: str) -> Extraction | None:
        return extraction(text, **self.experiment.answers.model_dump())

    def _vote_on(self, question: str, q: int, samples: Samples, n: int, seed: int) -> _Group:
        """Decode, extract and vote on one question's n samples, and draw those that train."""
        texts = self._texts([samples.ids(q, i) for i in range(n)])
        found = [self._extraction(text) for text in texts]
        answers = [one.answer if one else None for one in found]
        g, lengths = self.experiment.rollout.trained, samples.lengths_QN[q, :n]
        return _Group(
            question_id=question,
            texts=texts,
            answers=answers,
            fallbacks=sum(one is not None and one.how != "box" for one in found),
            outcomes=Counter(outcome(answer) for answer in answers if answer is not None),
            vote=vote(answers, seed=derive_seed(seed, "tie", question)),
            trained=np.sort(generator(seed, "trained", question).permutation(n)[:g]),
            lengths=lengths,
            finished=samples.finished_QN[q, :n],
            mean_logprobs=samples.logprobs_QNT[q, :n].sum(axis=1, dtype=np.float64) / lengths,
            entropies=samples.entropies_QNT[q, :n].sum(axis=1, dtype=np.float64) / lengths,
            certainties=None
            if samples.certainties_QNT is None
            else samples.certainties_QNT[q, :n].sum(axis=1, dtype=np.float64) / lengths,
            entropy=float(samples.entropies_QNT[q].sum(dtype=np.float64)),
            prompt_tokens=len(self.prompts[question]),
        )

    def _gold_of(self, groups: Sequence[_Group]) -> list[str]:
        assert self.gold is not None
        return [self.gold[group.question_id] for group in groups]

    # -- update ----------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """TRL's rollout with the algorithm's advantages, and without an extra forward pass for old log-probabilities.

        With several updates per rollout TRL asks the trainer's model for them; a sampler that computes in the
        trainer's precision has them already.
        """
        self._old_logps_known = self._sampler_is_exact and self.beta == 0
        try:
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            known, self._old_logps_known = self._old_logps_known, False
        if known and self.experiment.train.updates_per_step > 1:
            batch["old_per_token_logps"] = batch["sampling_per_token_logps"]
        batch["advantages"] = self.token_advantages(batch)
        return batch

    def token_advantages(self, batch: dict[str, Any]) -> torch.Tensor:
        """Advantages of this process's rows, which come in the order of the rollout: (B,), or (B, T) in a subclass."""
        assert self._pending is not None
        return self._mine(self._pending.advantages_QG)

    def kept_rows(self) -> torch.Tensor:
        """Which of this process's rows are trained on, bool (B,)."""
        assert self._pending is not None
        kept_QG = np.repeat(self._pending.kept_Q[:, None], self.experiment.rollout.trained, axis=1)
        return self._mine(kept_QG).bool()

    def trained_rewards(self) -> torch.Tensor:
        """Rewards of this process's rows, (B,)."""
        assert self._pending is not None
        trained_QG = np.stack([group.trained for group in self._pending.groups])
        return self._mine(np.take_along_axis(self._pending.rewards_QN, trained_QG, axis=1))

    def everywhere(self, value: torch.Tensor) -> float:
        """The sum over the processes of a number."""
        return float(self.accelerator.reduce(value.double(), reduction="sum"))

    def _mine(self, values_QG: np.ndarray) -> torch.Tensor:
        """This process's rows of something of all processes' trained samples, (B,) fp32."""
        own = np.split(values_QG, self.accelerator.num_processes)[self.accelerator.process_index]
        return torch.tensor(own.reshape(-1), dtype=torch.float32, device=self.accelerator.device)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, torch.Tensor]:
        """TRL's batches, with each update's samples arranged over its forward passes, and unpadded."""
        inputs = super()._prepare_inputs(generation_batch)
        if self.model.training and self._step % self.plan.forwards_per_step == 0:
            batches, size = self._buffered_inputs, self.plan.accumulation
            self._buffered_inputs = [
                batch
                for start in range(0, len(batches), size)
                for batch in rearranged(
                    batches[start : start + size], by_prompt if self._logprobs_of(self.model) else by_length
                )
            ]
            inputs = self._buffered_inputs[0]
        return inputs

    def _logprobs_of(self, model: PreTrainedModel) -> LogProbs | None:
        """The native code for this model, where it can replace the model's own forward pass.

        Not with several processes (their gradients are averaged in hooks of the wrapped forward), not
        where the loss needs the entropy's gradient, and not through adapters.
        """
        if processes().num_processes > 1 or self._entropy_bonus_enabled or self.top_entropy_quantile < 1:
            return None
        if has_adapters(model):
            return None
        if id(model) not in self._native:
            library = native_library(model)
            if isinstance(library, str):
                return None
            self._native[id(model)] = LogProbs(model, library)
        return self._native[id(model)]

    def _get_per_token_logps_and_entropies(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        if self._old_logps_known:
            return None, None, None
        native = None if compute_aux_loss else self._logprobs_of(self.accelerator.unwrap_model(model))
        if native is not None:
            logps, entropies = native.padded(input_ids, attention_mask, logits_to_keep, self.temperature)
            found = logps, entropies, None
        else:
            found = super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **kwargs,
            )
        self._trainer_logps = found[0].detach()
        return found

    def logps_of(self, model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, completion: int) -> torch.Tensor:
        """Log-probabilities of the last `completion` tokens under any model, (B, completion), at the rollout's T."""
        native = self._logprobs_of(model)
        if native is not None:
            return native.padded(ids, mask, completion, self.temperature)[0]
        # TRL's own way needs a model that TRL has changed, which these are not.
        found = model(input_ids=ids, attention_mask=mask, logits_to_keep=completion + 1, use_cache=False)
        logps: torch.Tensor = selective_log_softmax(found.logits[:, :-1] / self.temperature, ids[:, -completion:])
        return logps

    def _compute_loss(self, model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss, without the rows that add nothing to it (all of a group's rewards being equal, say).

        At a step's first update it also measures how far the sampler's model is from ours.

        Until the weights move, the sampler's log-probabilities must be the trainer's: a gap means a
        stale or wrong copy of the weights, or lower precision.
        """
        share, rows = 1.0, len(inputs["completion_ids"])
        if self._may_skip:
            inputs, share = with_signal(inputs)
        loss = super()._compute_loss(model, inputs)
        if SKIPS.get(self.loss_type) == "per row":
            loss = loss * (len(inputs["completion_ids"]) / rows)
        if share < 1:
            # TRL's mean is over the rows it saw; a row without advantage is never clipped.
            self._metrics["train"]["clip_ratio/region_mean"][-1] *= share
        if self._pending is not None and self._step % self.plan.forwards_per_step < self.plan.accumulation:
            gap = (self._trainer_logps - inputs["sampling_per_token_logps"]).abs() * inputs["completion_mask"]
            self._metrics["train"]["sampler_gap"].append(float(self.accelerator.gather(gap.max()).max()))
            native = self._logprobs_of(self.accelerator.unwrap_model(model))
            if native is not None and self._step % self.plan.forwards_per_step == 0:
                self._metrics["train"]["sampler_gap"].append(self._gap_to_own_forward(model, inputs))
        return loss

    @torch.no_grad()
    def _gap_to_own_forward(self, model: PreTrainedModel, inputs: dict[str, Any]) -> float:
        """The same gap on a few rows, by the model's own forward pass.

        The native code samples and trains with one copy of the weights: it cannot tell that this copy is wrong.
        """
        spread = max(1, len(inputs["completion_ids"]) // PROBED)
        few = {key: value[::spread][:PROBED] for key, value in inputs.items() if value.dim() > 0}
        ids, mask = (torch.cat([few[f"prompt_{what}"], few[f"completion_{what}"]], dim=1) for what in ("ids", "mask"))
        width = few["completion_ids"].shape[1]
        logps, _, _ = super()._get_per_token_logps_and_entropies(model, ids, mask, width)
        return float(((logps - few["sampling_per_token_logps"]).abs() * few["completion_mask"]).max())

    @property
    def _sampler_is_exact(self) -> bool:
        """Whether the sampler's log-probabilities are the trainer's to rounding: fp32 in both, on a CPU."""
        on_cpu = bool(self.model.device.type == "cpu")
        return self.engine.full_precision and self.model.dtype == torch.float32 and on_cpu

    @property
    def _may_skip(self) -> bool:
        """Whether rows without advantage leave the loss and its gradient as they are, whatever their number."""
        # Several processes gather metrics of every row: all must have equally many.
        return (
            self.experiment.train.skip_without_signal is not False
            and self.loss_type in SKIPS
            and self.beta == 0
            and processes().num_processes == 1
            and not (self._entropy_bonus_enabled or self.aux_loss_enabled or self.top_entropy_quantile < 1)
        )

    # -- bookkeeping -----------------------------------------------------------------------------

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self._pending is None:
            self._step_started = time.perf_counter()
        return super().training_step(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called by the Trainer after the last update of every step (and once at the end, without a rollout)."""
        sampler_gap = self._metrics["train"].pop("sampler_gap", [])
        super().log(logs, start_time)
        if self._pending is None:
            return
        # A gap that is not a number is none that is small enough.
        if self._sampler_is_exact and not all(gap <= MOST_GAP for gap in sampler_gap):
            raise RuntimeError(
                f"step {self.steps_done}: the sampler's log-probabilities are up to {np.max(sampler_gap):.3g} off the "
                f"trainer's, so it samples from another model; try rollout.engine=transformers, and report this"
            )
        pending, self._pending = self._pending, None
        seconds = time.perf_counter() - self._step_started
        groups, step = pending.groups, self.steps_done
        trained_QG = np.stack([group.trained for group in groups])
        values: dict[str, float | None] = dict(metrics.label_free(pending.rollouts, pending.rewards_QN))
        values["kept_rate"] = float(pending.kept_Q.mean())
        if self.gold is not None:
            gold_Q, rewards_QN, binary = self._gold_of(groups), pending.rewards_QN, self.reward.binary
            values |= metrics.label_based(
                pending.rollouts, gold_Q, rewards_QN, trained_QG, pending.advantages_QG, binary
            )
            values |= metrics.by_label(pending.rollouts, gold_Q, rewards_QN, pending.targets_Q, pending.kept_Q, binary)
        sampled = sum(int(group.lengths.sum()) for group in groups)
        drawn = sum(group.vote.n for group in groups)
        fallback = self.experiment.answers.final_answer or self.experiment.answers.last_number
        adaptive = self.experiment.rollout.adaptive_error is not None
        result = StepResult(
            step=step,
            metrics={
                **values,
                "entropy": sum(group.entropy for group in groups) / sampled,
                "mean_tokens": sampled / drawn,
                "truncation_rate": 1 - float(np.mean([group.finished.mean() for group in groups])),
                "parse_error_rate": sum(group.outcomes["parse_error"] for group in groups) / drawn,
                "parse_timeout_rate": sum(group.outcomes["parse_timeout"] for group in groups) / drawn,
                **({"fallback_rate": sum(group.fallbacks for group in groups) / drawn} if fallback else {}),
                **({"samples_per_question": drawn / len(groups)} if adaptive else {}),
                "loss": logs["loss"],
                "grad_norm": float(logs["grad_norm"]),
                "learning_rate": logs["learning_rate"],
                "clip_ratio": logs["clip_ratio/region_mean"],
                "sampler_gap": float(np.max(sampler_gap)),
                **({"kl": logs["kl"]} if "kl" in logs else {}),
                **self.extra_metrics,
            },
            timings={
                "seconds": seconds,
                "sampling_seconds": pending.sampling_seconds,
                "voting_seconds": pending.voting_seconds,
                "training_seconds": seconds - pending.sampling_seconds - pending.voting_seconds,
                "sampled_tokens_per_second": sampled / pending.sampling_seconds,
            },
            votes=[
                _vote_row(step, group, self.gold, target, kept)
                for group, target, kept in zip(
                    groups, pending.targets_Q or [None] * len(groups), pending.kept_Q.tolist(), strict=True
                )
            ],
            samples=[
                row
                for group, rewards in zip(groups, pending.rewards_QN, strict=True)
                for row in _sample_rows(step, group, rewards)
            ],
            tokens_sampled=sampled,
            tokens_trained=sum(
                int(group.lengths[group.trained].sum()) + group.prompt_tokens * len(group.trained) for group in groups
            ),
            tokens_prompt=sum(group.prompt_tokens for group in groups),
        )
        self.extra_metrics = {}
        end = self.accelerator.is_main_process and bool(self.on_step(result))
        if self.experiment.watch.stop and any(gather_object([end])):
            self.ended = self.control.should_save = self.control.should_training_stop = True

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.side_models and self.accelerator.is_main_process:
            path = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}" / SIDE_MODELS
            torch.save({name: side.state() for name, side in self.side_models.items()}, path)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.side_models and checkpoint is not None:
            states = torch.load(Path(checkpoint) / SIDE_MODELS, weights_only=True, map_location=self.accelerator.device)
            for name, side in self.side_models.items():
                side.load(states[name])

    def _get_train_sampler(self, dataset: Dataset | None = None) -> RepeatSampler:
        sampler = super()._get_train_sampler(dataset)
        sampler.__class__ = _EpochSampler
        return sampler

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card beside every checkpoint: the record says more than TRL's template."""


def _certainties(groups: Sequence[_Group]) -> list[np.ndarray] | None:
    found = [group.certainties for group in groups if group.certainties is not None]
    return found if len(found) == len(groups) else None


def _vote_row(step: int, group: _Group, gold: Mapping[str, str] | None, target: str | None, kept: bool) -> Row:
    v = group.vote
    top = list(v.counts.values())
    key = gold[group.question_id] if gold is not None else None
    return {
        "step": step,
        "question_id": group.question_id,
        "label": v.label,
        "label_key": v.key,
        "top_count": top[0] if top else 0,
        "second_count": top[1] if len(top) > 1 else 0,
        "gold_count": v.counts.get(right_class(v.counts, key) or "", 0) if key is not None else None,
        "label_correct": metrics.is_right(v, key) if key is not None else None,
        "n": v.n,
        "classes": len(v.counts),
        "tied": v.tied,
        "abstained": v.abstained,
        "target_key": target,
        "kept": kept,
    }


def _sample_rows(step: int, group: _Group, rewards_N: np.ndarray) -> list[Row]:
    trained = set(group.trained.tolist())
    return [
        {
            "step": step,
            "question_id": group.question_id,
            "sample": n,
            "text": text,
            "answer": group.answers[n],
            "key": group.vote.keys[n],
            "reward": float(rewards_N[n]),
            "trained": n in trained,
            "tokens": int(group.lengths[n]),
            "finished": bool(group.finished[n]),
            "mean_logprob": float(group.mean_logprobs[n]),
        }
        for n, text in enumerate(group.texts)
    ]


def _arguments(experiment: Experiment, plan: Plan, folder: Path, count: int) -> GRPOConfig:
    train, rollout = experiment.train, experiment.rollout
    cuda = torch.cuda.is_available()
    return GRPOConfig(
        output_dir=str(folder),
        seed=derive_seed(experiment.seeds.rl, "trainer") & SEED_MASK,
        num_generations=rollout.trained,
        temperature=rollout.temperature,
        max_completion_length=rollout.max_new_tokens,
        per_device_train_batch_size=plan.microbatch,
        gradient_accumulation_steps=plan.accumulation,
        steps_per_generation=plan.forwards_per_step,
        max_steps=train.steps * train.updates_per_step,
        logging_steps=train.updates_per_step,
        logging_nan_inf_filter=False,  # a NaN loss must show as one
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule if train.schedule == "cosine" else "constant_with_warmup",
        warmup_steps=train.warmup_updates,
        weight_decay=train.weight_decay,
        max_grad_norm=train.gradient_clip,
        save_strategy="no",  # checkpoints are asked for at the end of whole steps (run.py)
        save_total_limit=2,
        gradient_checkpointing=train.gradient_checkpointing,
        disable_dropout=True,  # the sampler has none either
        ddp_timeout=24 * 3600,
        bf16=cuda,
        use_cpu=not cuda,
        ddp_backend="gloo" if count > 1 and not cuda else None,
        ddp_find_unused_parameters=False if count > 1 else None,
        dataloader_pin_memory=cuda,
        disable_tqdm=True,
        report_to="none",
        **experiment.algorithm.trl_arguments(),
    )
