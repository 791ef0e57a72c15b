"""The experiment's config: typed and strict; YAML in, resolved YAML out, and a stable hash.

One file is one cell of the study. Seeds name a replicate of the cell, so the hash leaves them out:
equal hashes are replicates of one another. A field that cannot change a result (name, claim, tracking)
is left out of the hash too.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from ttrl_repro.algorithms import ALGORITHMS, GRPO, Algorithm
from ttrl_repro.errors import UserError
from ttrl_repro.parts import Strict as _Strict
from ttrl_repro.rewards import REWARDS, Majority, Reward
from ttrl_repro.yaml_files import read_yaml

NOT_HASHED = ("name", "claim", "seeds", "tracking")


class Seeds(_Strict):
    """A replicate: the base's pretraining seed, the question draw, and the seed of everything in RL."""

    base: int = Field(0, ge=0)
    draw: int = Field(0, ge=0)
    rl: int = Field(0, ge=0)


class Prompt(_Strict):
    """How a problem becomes a prompt. A model with a chat template gets the problem as a user turn.

    suffix: text after the problem. `boxed` asks for a `\\boxed{}` answer in TTRL's words; `auto` does so
    where the model has a chat template that does not ask for it already, and is empty for a model
    without a chat template.
    """

    system: str | None = None
    suffix: str = "auto"


class Answers(_Strict):
    r"""How answers are read from completions: from the last `\boxed{}`; the other ways are off by default.

    mode: `math`, or `choice` for a letter of `choices`. final_answer: without a box, what follows "answer is".
    last_number: without either, the last number of the text, as in the released TTRL code (truncated outputs
    then vote); `fallback_rate` in the metrics says how often these two were used.
    """

    mode: Literal["math", "choice"] = "math"
    choices: str = Field("ABCD", pattern=r"^[A-Z]{2,26}$")
    final_answer: bool = False
    last_number: bool = False

    @model_validator(mode="after")
    def _sensible(self) -> Answers:
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"choices must be different letters, not {self.choices!r}")
        if self.mode == "choice" and self.last_number:
            raise ValueError("last_number has no effect with mode 'choice'")
        return self


class Vllm(_Strict):
    """How the `vllm` engine runs.

    mode: `colocate` holds vLLM in the training process, beside the live model; `server` asks a running
    `vllm serve` at server_host:server_port, waiting up to server_timeout seconds for it. The others are for
    colocate, since a server has its own flags. dtype: what vLLM computes in; `auto` is float32 on a CPU and
    bfloat16 on a GPU. gpu_memory_utilization: the share of the GPU's memory for vLLM's weights and cache;
    cpu_cache_gib: on a CPU, GiB for the cache. max_model_len: most tokens of prompt and completion.
    max_num_seqs: most samples in flight.
    """

    mode: Literal["colocate", "server"] = "colocate"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gpu_memory_utilization: float = Field(0.3, gt=0, lt=1)
    cpu_cache_gib: float = Field(1.0, gt=0)
    max_model_len: int | None = Field(None, ge=2)
    max_num_seqs: int | None = Field(None, ge=1)
    server_host: str = "127.0.0.1"
    server_port: int = Field(8000, ge=1, le=65535)
    server_timeout: float = Field(240.0, ge=0)

    @model_validator(mode="after")
    def _of_its_mode(self) -> Vllm:
        for name, field in type(self).model_fields.items():
            other = name != "mode" and name.startswith("server_") != (self.mode == "server")
            if other and getattr(self, name) != field.default:
                raise ValueError(f"{name} has no effect with mode {self.mode!r}")
        return self


class Rollout(_Strict):
    """Sampling for the vote: `votes` samples a question, of which a seeded draw of `trained` trains.

    adaptive_error: stop sampling a question once its majority is decided, with at most this probability of a
    label that is no winner of the full vote (`adaptive.SequentialRule`); None samples all votes. It looks
    after every `adaptive_chunk` samples, from `trained` on.
    """

    engine: Literal["auto", "cpu", "transformers", "vllm"] = "auto"
    votes: int = Field(64, ge=1)
    trained: int = Field(32, ge=2)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(90, ge=1)
    adaptive_error: float | None = Field(None, ge=0, lt=1)
    adaptive_chunk: int = Field(8, ge=1)
    vllm: Vllm = Vllm()

    @model_validator(mode="after")
    def _trained_of_votes(self) -> Rollout:
        if self.trained > self.votes:
            raise ValueError(f"trained ({self.trained}) must be at most votes ({self.votes})")
        if self.adaptive_error is None and "adaptive_chunk" in self.model_fields_set and self.adaptive_chunk != 8:
            raise ValueError("adaptive_chunk has no effect without adaptive_error")
        if self.adaptive_error is not None and max(self.trained, self.adaptive_chunk) >= self.votes:
            raise ValueError(
                f"adaptive_error saves nothing unless trained ({self.trained}) and adaptive_chunk "
                f"({self.adaptive_chunk}) are below votes ({self.votes})"
            )
        if self.engine != "vllm" and self.vllm != Vllm():
            raise ValueError(f"vllm has no effect with engine {self.engine!r}")
        if self.engine == "vllm" and self.top_p < 1:
            raise ValueError("top_p must be 1 with engine 'vllm', which has no log-probabilities from before top_p")
        return self


class Lora(_Strict):
    """Low-rank adapters (Hu et al. 2021) in place of all weights; target_modules: None takes PEFT's for the model."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    target_modules: tuple[str, ...] | None = Field(None, min_length=1)


class Train(_Strict):
    """The schedule. A step is one rollout of `questions_per_step` questions and the updates made from it.

    questions_per_step: None takes the whole task. microbatch: the most samples per forward pass (None: all
    of an update's); the largest size that divides an update is taken. It bounds memory and does not
    change the loss. gradient_checkpointing: less memory, more time (the native code ignores it).
    skip_without_signal: samples whose advantage is 0 (a group whose rewards are all equal) are left out of
    the update, which they do not change; `auto` does so wherever that is exact. only: train on questions alone whose
    label, the one that the reward teaches, is wrong (or right): an analysis that reads true labels, as the oracle does.
    """

    steps: int = Field(40, ge=1)
    questions_per_step: int | None = Field(None, ge=1)
    updates_per_step: int = Field(1, ge=1)
    microbatch: int | None = Field(None, ge=1)
    learning_rate: float = Field(3e-5, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_updates: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    gradient_clip: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = False
    skip_without_signal: bool | Literal["auto"] = "auto"
    only: Literal["all", "wrong_label", "right_label"] = "all"
    checkpoint_every: int = Field(10, ge=1)


class Evaluate(_Strict):
    """The protocol: greedy pass@1, and avg@k and maj@k from k samples at the paper's T=0.6, top-p 0.95.

    every: steps between evaluations (the base and the end are always evaluated). votes: samples for the
    maj@votes of the base and of the end. base_temperatures: where the base's best avg and maj are looked
    for. tasks: further tasks, each evaluated on its `train` set. fresh: also the task's fresh set.
    """

    every: int = Field(10, ge=1)
    k: int = Field(16, ge=1)
    votes: int = Field(64, ge=1)
    temperature: float = Field(0.6, gt=0)
    top_p: float = Field(0.95, gt=0, le=1)
    base_temperatures: tuple[float, ...] = (0.3, 0.6, 1.0)
    tasks: tuple[str, ...] = ()
    fresh: bool = True

    @model_validator(mode="after")
    def _check(self) -> Evaluate:
        if self.k > self.votes:
            raise ValueError(f"k ({self.k}) must be at most votes ({self.votes})")
        temperatures = self.base_temperatures
        if any(t <= 0 or t != round(t, 4) for t in temperatures) or len(set(temperatures)) < len(temperatures):
            raise ValueError("base_temperatures must be positive, different, and of at most 4 decimals")
        if self.temperature not in self.base_temperatures:
            raise ValueError(f"base_temperatures must contain temperature ({self.temperature})")
        return self


class Watch(_Strict):
    """The watch for collapse (`watch.alarms`): label-free signs, compared with the run's own first steps.

    stop: end the run after the step of its first alarm; by default an alarm is only written down.
    reference_steps: the first steps, whose mean a sign is compared with. patience: steps in a row on which a sign
    must show. top_answer_rise: of `top_answer_share`, absolute; with all true answers different, agreement alone
    raises it by less than 1 / questions of a step. unanimity, distinct_fall: of `majority_ratio`, absolute, and of
    `distinct_answers`, a factor; both are asked for. entropy_fall, tokens_fall, tokens_rise: factors.
    """

    stop: bool = False
    reference_steps: int = Field(3, ge=1)
    patience: int = Field(2, ge=1)
    top_answer_rise: float = Field(0.25, gt=0, lt=1)
    unanimity: float = Field(0.95, gt=0, le=1)
    distinct_fall: float = Field(0.25, gt=0, lt=1)
    entropy_fall: float = Field(0.1, gt=0, lt=1)
    tokens_fall: float = Field(0.5, gt=0, lt=1)
    tokens_rise: float = Field(2.0, gt=1)


class Tracking(_Strict):
    """The W&B mirror of the record. `samples`: whether sampled texts are sent to W&B."""

    wandb: bool = True
    project: str = "ttrl-repro"
    entity: str | None = None
    samples: bool = False


class Experiment(_Strict):
    """One experiment. `task`: a task's name or a path to a `.jsonl`; `model`: a miniature, path or hub id.

    `algorithm`, `reward`: a name, or a mapping of `name` and settings (see those packages). `lora`: train adapters.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    claim: str | None = None
    task: str
    model: str
    reward: SerializeAsAny[Reward] = Majority()
    prompt: Prompt = Prompt()
    answers: Answers = Answers()
    rollout: Rollout = Rollout()
    algorithm: SerializeAsAny[Algorithm] = GRPO()
    lora: Lora | None = None
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    watch: Watch = Watch()
    seeds: Seeds = Seeds()
    tracking: Tracking = Tracking()

    @field_validator("algorithm", mode="before")
    @classmethod
    def _known_algorithm(cls, given: object) -> Algorithm:
        return ALGORITHMS.make(given)

    @field_validator("reward", mode="before")
    @classmethod
    def _known_reward(cls, given: object) -> Reward:
        return REWARDS.make(given)

    @field_serializer("reward")
    def _by_name_alone(self, reward: Reward) -> Any:
        content = reward.model_dump(mode="json")
        return content if len(content) > 1 else reward.name

    @model_validator(mode="after")
    def _kl_reaches_every_sample(self) -> Experiment:
        if self.algorithm.kl > 0 and self.train.skip_without_signal is True:
            raise ValueError(
                f"train.skip_without_signal: with algorithm.kl ({self.algorithm.kl}) a sample without advantage "
                f"changes the update, too; use auto or false"
            )
        return self

    @model_validator(mode="after")
    def _reward_has_what_it_needs(self) -> Experiment:
        if self.train.only != "all" and not self.reward.has_targets:
            raise ValueError(f"train.only: {self.train.only!r} needs labels, and reward {self.reward.name!r} has none")
        if self.algorithm.needs_unit_rewards and not self.reward.unit:
            raise ValueError(
                f"algorithm: {self.algorithm.name!r} needs rewards from 0 to 1, which those of {self.reward.name!r} "
                f"are not; use another algorithm, such as grpo"
            )
        if self.rollout.engine == "vllm" and self.reward.needs_distributions:
            raise ValueError(
                f"reward: {self.reward.label()!r} needs the distributions that tokens come from, which vLLM does not "
                f"give; use rollout.engine 'auto', 'cpu' or 'transformers'"
            )
        return self

    @model_validator(mode="after")
    def _temperatures_of_vllm(self) -> Experiment:
        hottest = max(self.rollout.temperature, *self.evaluate.base_temperatures)
        if self.rollout.engine == "vllm" and hottest > 2:
            raise ValueError(f"vLLM samples at temperatures up to 2, not {hottest}")
        return self

    @model_validator(mode="after")
    def _watch_can_stop(self) -> Experiment:
        first = self.watch.reference_steps + self.watch.patience
        if self.watch.stop and first >= self.train.steps:
            raise ValueError(
                f"watch.stop has no effect: an alarm cannot come before step {first} (watch.reference_steps + "
                f"watch.patience), and train.steps is {self.train.steps}"
            )
        return self

    def cell_hash(self) -> str:
        """12 hex digits that name the cell: equal for replicates, different for any other setting."""
        # Without defaults, so that a field added later leaves the hashes of older records as they are.
        parts = {"algorithm", "reward"}
        content = self.model_dump(mode="json", exclude={*NOT_HASHED, *parts}, exclude_defaults=True)
        if self.algorithm != GRPO():
            named = {} if self.algorithm.name == "grpo" else {"name": self.algorithm.name}
            content["algorithm"] = {**named, **self.algorithm.changed()}
        if self.reward != Majority():
            changed = self.reward.changed()
            content["reward"] = {"name": self.reward.name, **changed} if changed else self.reward.name
        # Once the default's name; it changes results by rounding alone.
        if content.get("train", {}).get("skip_without_signal") is True:
            del content["train"]["skip_without_signal"]
        if not content.get("train", True):
            del content["train"]
        # A watch that stops nothing only looks on.
        if not self.watch.stop:
            content.pop("watch", None)
        # Where a server listens and how much memory vLLM takes change no result.
        vllm = content.get("rollout", {}).get("vllm", {})
        for name in [*(name for name in vllm if name.startswith("server_")), "gpu_memory_utilization", "cpu_cache_gib"]:
            vllm.pop(name, None)
        if not vllm:
            content.get("rollout", {}).pop("vllm", None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def to_yaml(self) -> str:
        """The resolved config, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_experiment(path: Path, overrides: list[str] | None = None) -> Experiment:
    """Read an experiment from YAML, with `a.b=value` overrides (values are YAML).

    Raises UserError naming file, field and what would be right.
    """
    return experiment_from(read_experiment(path), overrides or [], path)


def read_experiment(path: Path) -> dict[str, Any]:
    """The content of an experiment file. Raises UserError if it is no mapping."""
    content = read_yaml(path, "experiment")
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of fields, found {type(content).__name__}")
    return content


def experiment_from(content: Mapping[str, Any], overrides: Sequence[str], path: Path) -> Experiment:
    """An experiment from a file's content, which is left as it is. Raises UserError as `load_experiment`."""
    changed = copy.deepcopy(dict(content))
    for override in overrides:
        _override(changed, override)
    try:
        return Experiment.model_validate(changed)
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, Experiment)}") from error


def name_of(experiment: Experiment) -> str:
    """The name of a run's record: NAME-HASH-bB-dD-rR."""
    seeds = experiment.seeds
    return f"{experiment.name}-{experiment.cell_hash()}-b{seeds.base}-d{seeds.draw}-r{seeds.rl}"


def _override(content: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    parts = name.split(".")
    if not equals or not all(parts):
        raise UserError(f"override {override!r}: expected key=value, as in train.steps=10")
    at = content
    for part in parts[:-1]:
        if at is content and part in ("algorithm", "reward") and isinstance(at.get(part), str):
            at[part] = {"name": at[part]}
        if at.get(part) is None:
            at[part] = {}
        at = at[part]
        if not isinstance(at, dict):
            raise UserError(f"override {override!r}: {part!r} is not a group of fields")
    try:
        given = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value is not valid YAML") from error
    before = at.get(parts[-1])
    # A mapping changes the fields that it names, as `rollout={votes: 8, trained: 4}`; a part of another name replaces.
    if isinstance(given, dict) and isinstance(before, dict) and given.get("name") in (None, before.get("name")):
        given = {**before, **given}
    at[parts[-1]] = given


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of pydantic's complaints in one line: field, complaint, value, and the known fields if unknown."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "(top level)"
    if first["type"] == "extra_forbidden":
        # Neither a place in a list nor a key of a mapping.
        for part in (part for part in first["loc"][:-1] if isinstance(part, str) and part in model.model_fields):
            annotation = model.model_fields[part].annotation
            kinds = (annotation, *get_args(annotation))  # of `Lora | None` and `dict[str, Arm]`, too
            model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
        return f"{where}: unknown field; known here: {', '.join(model.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    given = first["input"]
    shown = f" (given: {given!r})" if not isinstance(given, dict) and first["type"] != "missing" else ""
    return f"{where}: {message}{shown}"
