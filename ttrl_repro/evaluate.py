"""Evaluation of a model on a task: sampled answers as rows, which `summary` turns into numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ttrl_repro import checkpoints
from ttrl_repro.answers import canonical, canonical_all, extract, graded
from ttrl_repro.config import Answers, Prompt
from ttrl_repro.errors import UserError
from ttrl_repro.miniature.corpus import MAX_COMPLETION
from ttrl_repro.miniature.recipes import recipe_names
from ttrl_repro.models import load_model
from ttrl_repro.progress import Progress
from ttrl_repro.prompts import encode_prompts
from ttrl_repro.records import Record, Row
from ttrl_repro.rollouts import Engine, Sampling, make_engine, uniforms
from ttrl_repro.seeds import derive_seed
from ttrl_repro.tasks import Split, Task, load_task


@dataclass(frozen=True)
class Protocol:
    """How answers are sampled: greedy (temperature 0, one sample) or `samples` at a temperature."""

    temperature: float
    top_p: float
    samples: int

    @property
    def name(self) -> str:
        """`greedy` or `sampled`."""
        return "greedy" if self.temperature == 0 else "sampled"


GREEDY = Protocol(0.0, 1.0, 1)
DEFAULT_ANSWERS = Answers()


def evaluate(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    prompts: Mapping[str, list[int]],
    protocol: Protocol,
    max_new_tokens: int,
    seed: int,
    step: int,
    extraction: Answers = DEFAULT_ANSWERS,
    report: Callable[[int], None] = lambda _: None,
) -> list[Row]:
    """Rows of `records.EVAL`, one per sampled answer. Samples depend on (seed, step, task, protocol).

    `report(samples)` is called whenever that many more are finished.
    """
    ids = [question.id for question in task.questions]
    stream = derive_seed(seed, "evaluate", step, task.name, task.split, str(protocol.temperature))
    samples = engine.sample(
        [prompts[i] for i in ids],
        uniforms(stream, ids, protocol.samples, max_new_tokens),
        Sampling(protocol.temperature, protocol.top_p, max_new_tokens),
        report,
    )
    rows: list[Row] = []
    for q, question in enumerate(task.questions):
        texts = tokenizer.batch_decode([samples.ids(q, n) for n in range(protocol.samples)], skip_special_tokens=True)
        answers = [extract(text, **extraction.model_dump()) for text in texts]
        gold = canonical(question.answer)
        keys = graded(canonical_all(answers), gold)
        for n, answer in enumerate(answers):
            rows.append(
                {
                    "step": step,
                    "task": task.name,
                    "split": task.split,
                    "protocol": protocol.name,
                    "temperature": protocol.temperature,
                    "top_p": protocol.top_p,
                    "question_id": question.id,
                    "sample": n,
                    "answer": answer,
                    "key": keys[n],
                    "gold_key": gold,
                    "tokens": int(samples.lengths_QN[q, n]),
                    "finished": bool(samples.finished_QN[q, n]),
                }
            )
    return rows


def evaluate_model(
    model: str,
    task: str,
    *,
    protocol: Protocol,
    max_new_tokens: int | None,
    seed: int,
    draw: int = 0,
    split: Split = "train",
    base_seed: int = 0,
) -> list[Row]:
    """Greedy and `protocol` rows of any model on any task; a run's folder stands for its last checkpoint.

    max_new_tokens: None takes the run's own, or a miniature's. Raises UserError for a model or task that
    cannot be loaded, and for one that needs max_new_tokens.
    """
    source, prompt, extraction, step = model, Prompt(), DEFAULT_ANSWERS, 0
    limit = max_new_tokens or (MAX_COMPLETION if model in recipe_names() else None)
    if (Path(model) / "manifest.json").is_file():
        record = Record.reopen(Path(model))
        checkpoint = checkpoints.newest(Path(model) / "checkpoints")
        if checkpoint is None:
            raise UserError(f"{model}: this run has no complete checkpoint to evaluate")
        experiment = record.experiment()
        source, prompt, extraction = str(checkpoint), experiment.prompt, experiment.answers
        step = int(checkpoint.name.rpartition("-")[2]) // experiment.train.updates_per_step
        limit = max_new_tokens or experiment.rollout.max_new_tokens
    if limit is None:
        raise UserError(f"--max-new-tokens: {model} has no record that says how long its answers may be; give it")
    questions = load_task(task, draw, split)
    loaded, tokenizer = load_model(source, base_seed)
    engine = make_engine("auto", loaded, tokenizer)
    prompts = encode_prompts(questions.questions, tokenizer, prompt)
    refuse_too_long("max_new_tokens", limit, loaded, prompts)
    rows: list[Row] = []
    protocols = (GREEDY, protocol) if protocol.temperature > 0 else (GREEDY,)
    with Progress() as progress:
        progress.start(f"evaluating {task}", len(prompts) * sum(p.samples for p in protocols), unit="sample")
        for each in protocols:
            rows += evaluate(
                engine,
                tokenizer,
                questions,
                prompts,
                each,
                limit,
                seed,
                step,
                extraction,
                lambda n: progress.advance(amount=n),
            )
    return rows


def refuse_too_long(field: str, max_new_tokens: int, model: PreTrainedModel, prompts: Mapping[str, list[int]]) -> None:
    """Raise UserError, naming `field`, unless the longest prompt and its completion fit the model's positions."""
    room = getattr(model.config, "max_position_embeddings", None)
    question, ids = max(prompts.items(), key=lambda item: len(item[1]))
    if room is not None and len(ids) + max_new_tokens > room:
        raise UserError(
            f"{field}: {max_new_tokens} after the {len(ids)} tokens of question {question!r} exceeds the model's "
            f"{room} positions; use at most {room - len(ids)}"
        )
