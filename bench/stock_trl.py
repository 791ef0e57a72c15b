"""TTRL as one would write it with stock TRL: `trl.GRPOTrainer` and a reward function that takes the majority vote.

As a worker (see bench/worker.py): `python -m bench.stock_trl '{"microbatch": 240, ...}'` with the fields of `Stock`.
Two versions of it:

- `trained` = None: all N sampled completions train, which is what TRL does;
- `trained` = G: a subclass drops N - G rows of each group before the update, so that only G are trained on.

What a good user tunes is a field: `bench/step.py` takes the fastest. The reward function is the cheapest that
works here, a regular expression and a count of strings.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from bench.phases import Phases
from bench.worker import Turns, only_answers_on_stdout
from ttrl_repro.models import load_model
from ttrl_repro.tasks import load_task

BOX = re.compile(r"\\boxed\{([^{}]*)\}")


@dataclass(frozen=True)
class Stock:
    """The settings. `microbatch`: rows of a training forward pass; `generated`: rows of a `model.generate`."""

    model: str = "mini-s"
    task: str = "mini-30"
    questions: int = 30
    votes: int = 64
    trained: int | None = None
    max_new_tokens: int = 90
    learning_rate: float = 3e-5
    microbatch: int = 240
    generated: int = 1920
    bf16: bool = False


def answer(completion: str) -> str | None:
    r"""What stands in the last `\boxed{}`."""
    found = BOX.findall(completion)
    return found[-1] if found else None


class MajorityVote:
    """The reward function: 1 for an answer that equals the most frequent one of its group."""

    __name__ = "majority_vote"

    def __init__(self, votes: int) -> None:
        self.votes = votes

    def __call__(self, completions: Sequence[str], **_: Any) -> list[float]:
        answers = [answer(completion) for completion in completions]
        rewards: list[float] = []
        for start in range(0, len(answers), self.votes):
            group = answers[start : start + self.votes]
            counts = Counter(one for one in group if one is not None)
            label = counts.most_common(1)[0][0] if counts else None
            rewards += [float(one is not None and one == label) for one in group]
        return rewards


class DroppingTrainer(GRPOTrainer):
    """Samples and votes on N = `num_generations` completions of a question, and trains on the first G of them."""

    trained: int

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        rows = torch.arange(len(batch["advantages"])).view(-1, self.num_generations)[:, : self.trained].flatten()
        batch = {key: value[rows] if value.dim() else value for key, value in batch.items()}
        width = int(batch["completion_mask"].sum(1).max())
        for key in ("completion_ids", "completion_mask"):
            batch[key] = batch[key][:, :width]
        batch["num_items_in_batch"] = batch["completion_mask"].sum()
        return batch


def build(stock: Stock, folder: str) -> GRPOTrainer:
    """The trainer; one optimizer step is one TTRL step over all questions."""
    model, tokenizer = load_model(stock.model)
    problems = [question.problem for question in load_task(stock.task).questions[: stock.questions]]
    rows = len(problems) * stock.votes
    # Rows that are sampled for each one that trains: TRL counts its batches in sampled rows.
    per_trained = stock.votes // (stock.trained or stock.votes)
    batch = stock.microbatch * per_trained
    arguments = GRPOConfig(
        output_dir=folder,
        num_generations=stock.votes,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=rows // batch,
        generation_batch_size=stock.generated,
        max_completion_length=stock.max_new_tokens,
        temperature=1.0,
        loss_type="dapo",
        beta=0.0,
        learning_rate=stock.learning_rate,
        lr_scheduler_type="constant",
        max_steps=1_000_000,
        use_cpu=True,
        bf16=stock.bf16,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    kind = DroppingTrainer if stock.trained else GRPOTrainer
    trainer = kind(
        model=model,
        reward_funcs=MajorityVote(stock.votes),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": problems}),
        processing_class=tokenizer,
    )
    if stock.trained:
        trainer.trained = stock.trained
    trainer.remove_callback(PrinterCallback)
    return trainer


def main() -> None:
    """Serve steps."""
    answers = only_answers_on_stdout()
    stock = Stock(**json.loads(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(stock, folder)
        phases, positions = Phases(), Counter[str]()
        phases.watch(trainer, "_generate_single_turn", "sampling")
        phases.watch(trainer, "_calculate_rewards", "voting")
        phases.watch(trainer, "_compute_loss", "forward")
        phases.watch(trainer.accelerator, "backward", "backward")
        phases.watch(trainer.accelerator, "clip_grad_norm_", "optimizer")

        def count(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
            positions["training" if torch.is_grad_enabled() else "sampling"] += kwargs["input_ids"].numel()

        trainer.model.register_forward_pre_hook(count, with_kwargs=True)

        def report() -> dict[str, Any]:
            taken = {"phases": phases.take(), "positions": dict(positions)}
            positions.clear()
            return taken

        trainer.add_callback(Turns(answers, report))
        trainer.create_optimizer()
        phases.watch(trainer.optimizer, "step", "optimizer")
        trainer.train()


if __name__ == "__main__":
    main()
