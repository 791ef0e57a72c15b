"""A null arm: the base, sharpened, in the place of a trained model.

A lower temperature raises avg@k and the majority ratio and teaches nothing: it is what TTRL would come to if it did
nothing but sharpen. The record looks like a run's, so that the study's own pipeline must say of it "first majority not
exceeded".

    python -m ttrl_repro.sharpened EXPERIMENT.yaml --replicates 10 --out FOLDER [--temperature 0.3] [key=value ...]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import PreTrainedModel

from ttrl_repro.config import Experiment, load_experiment
from ttrl_repro.errors import UserError
from ttrl_repro.evaluate import GREEDY, Protocol, evaluate
from ttrl_repro.records import Record, Row
from ttrl_repro.rollouts import make_engine
from ttrl_repro.run import Setup, facts_of, prepare
from ttrl_repro.startup import prepare_process


def sharpen(model: PreTrainedModel, temperature: float) -> None:
    """Divide the model's logits by `temperature`, in its weights. Raises UserError if its last norm is not found.

    The logits are linear in the output of the last norm, whose gain is therefore divided.
    """
    norm = getattr(getattr(model, "model", None), "norm", None)
    if norm is None or getattr(norm, "bias", None) is not None:
        raise UserError("this architecture has no last norm without bias, `model.norm`, to sharpen it by")
    with torch.no_grad():
        norm.weight /= temperature


def write_sharpened(experiment: Experiment, temperature: float, folder: Path) -> Record:
    """The record of a run whose training is replaced by `sharpen`; without votes and metrics, since no step is taken.

    Raises UserError as `run.prepare` and `Record.create`.
    """
    setup = prepare(experiment)
    record = Record.create(folder, experiment, facts_of(setup))
    settings = experiment.evaluate
    first = [GREEDY, *(Protocol(t, settings.top_p, settings.votes) for t in settings.base_temperatures)]
    record.write_eval(0, _rows(setup, first, 0))
    sharpen(setup.model, temperature)
    setup.engine = make_engine(experiment.rollout.engine, setup.model, setup.tokenizer, experiment.rollout.vllm)
    last = [GREEDY, Protocol(settings.temperature, settings.top_p, settings.votes)]
    record.write_eval(experiment.train.steps, _rows(setup, last, experiment.train.steps))
    record.manifest["steps_done"] = experiment.train.steps
    record.close("finished")
    return record


def _rows(setup: Setup, protocols: list[Protocol], step: int) -> list[Row]:
    experiment, rows = setup.experiment, list[Row]()
    for task in setup.evaluated:
        for protocol in protocols:
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
            )
    return rows


def main(
    experiment: Annotated[Path, typer.Argument(help="experiment file, as in experiments/")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as in train.steps=10")] = None,
    out: Annotated[Path, typer.Option(help="folder of the records, one for each replicate")] = Path("runs/sharpened"),
    replicates: Annotated[int, typer.Option(min=1, help="draws 0, 1, ..., RL seed alike")] = 10,
    temperature: Annotated[float, typer.Option(min=0.01, help="what the logits are divided by")] = 0.3,
) -> None:
    """Write the records, then judge them as a trained arm would be."""
    from analysis import load
    from analysis.claims import first_majority

    for replicate in range(replicates):
        seeds = [f"seeds.draw={replicate}", f"seeds.rl={replicate}"]
        config = load_experiment(experiment, [*(overrides or []), "name=sharpened", *seeds])
        write_sharpened(config, temperature, out / f"r{replicate}")
    judged = first_majority(load(out))
    print(judged.drop(columns="cell").to_string(index=False, float_format="{:+.3f}".format))
    if (judged["verdict"] == "first majority exceeded").any():
        raise UserError("a sharpened base came out as a gain: the pipeline, or the bar that it compares with, is wrong")


if __name__ == "__main__":
    prepare_process()
    try:
        typer.run(main)
    except UserError as error:
        print(f"sharpened: {error}", file=sys.stderr)
        raise SystemExit(2) from None
