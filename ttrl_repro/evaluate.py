"""Evaluation of a model on a task: sampled answers as rows, which `summary` turns into numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ttrl_repro import checkpoints
from ttrl_repro.answers import canonical, extract
from ttrl_repro.config import Prompt
from ttrl_repro.errors import UserError
from ttrl_repro.models import load_model
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


def evaluate(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    prompts: Mapping[str, list[int]],
    protocol: Protocol,
    max_new_tokens: int,
    seed: int,
    step: int,
) -> list[Row]:
    """Rows of `records.EVAL`, one per sampled answer. Samples depend on (seed, step, task, protocol)."""
    ids = [question.id for question in task.questions]
    stream = derive_seed(seed, "evaluate", step, task.name, task.split, str(protocol.temperature))
    samples = engine.sample(
        [prompts[i] for i in ids],
        uniforms(stream, ids, protocol.samples, max_new_tokens),
        Sampling(protocol.temperature, protocol.top_p, max_new_tokens),
    )
    rows: list[Row] = []
    for q, question in enumerate(task.questions):
        texts = tokenizer.batch_decode([samples.ids(q, n) for n in range(protocol.samples)], skip_special_tokens=True)
        for n, text in enumerate(texts):
            answer = extract(text)
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
                    "key": canonical(answer),
                    "gold_key": canonical(question.answer),
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
    max_new_tokens: int,
    seed: int,
    draw: int = 0,
    split: Split = "train",
    base_seed: int = 0,
) -> list[Row]:
    """Greedy and `protocol` rows of any model on any task; a run's folder stands for its last checkpoint.

    Raises UserError for a model or task that cannot be loaded.
    """
    source, prompt, step = model, Prompt(), 0
    if (Path(model) / "manifest.json").is_file():
        record = Record.reopen(Path(model))
        checkpoint = checkpoints.newest(Path(model) / "checkpoints")
        if checkpoint is None:
            raise UserError(f"{model}: this run has no complete checkpoint to evaluate")
        source, prompt, step = str(checkpoint), record.experiment().prompt, record.manifest["steps_done"]
    questions = load_task(task, draw, split)
    loaded, tokenizer = load_model(source, base_seed)
    engine = make_engine("auto", loaded, tokenizer)
    prompts = encode_prompts(questions.questions, tokenizer, prompt)
    rows: list[Row] = []
    for each in (GREEDY, protocol) if protocol.temperature > 0 else (GREEDY,):
        rows += evaluate(engine, tokenizer, questions, prompts, each, max_new_tokens, seed, step)
    return rows
