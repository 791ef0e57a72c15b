"""A null arm: the base, sharpened, in the place of a trained model.

A lower temperature raises avg@k and the majority ratio and teaches nothing: it is what TTRL would come to if it did
nothing but sharpen. The records look like a run's, but for `parts.trainer` in their manifest, so that the study's own
pipeline must say of them that nothing was gained: `python -m analysis.sharpened_null` asks it.

    python -m ttrl_repro.sharpened EXPERIMENT.yaml --replicates 10 --out FOLDER [--temperature 0.3] [key=value ...]

Safe to stop and start again: finished replicates are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import PreTrainedModel

from ttrl_repro.config import Experiment, load_experiment
from ttrl_repro.errors import UserError, in_one_line
from ttrl_repro.models import locate
from ttrl_repro.records import Record
from ttrl_repro.rollouts import make_engine
from ttrl_repro.run import Setup, evaluation_rows, facts_of, prepare, protocols_of
from ttrl_repro.startup import prepare_process

TRAINER = "sharpened"  # `parts.trainer` of the manifest


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

    A finished record of the same is kept, an unfinished one is written anew. Raises UserError as `run.prepare` and
    `Record.create`, and if `folder` has a record of anything else.
    """
    setup = prepare(experiment)
    record = _opened(setup, temperature, folder)
    if record.manifest["state"] == "finished":
        return record
    settings, steps = experiment.evaluate, experiment.train.steps
    record.write_eval(0, evaluation_rows(setup, protocols_of(settings, 0, last=False), 0))
    sharpen(setup.model, temperature)
    setup.engine = make_engine(experiment.rollout.engine, setup.model, setup.tokenizer, experiment.rollout.vllm)
    record.write_eval(steps, evaluation_rows(setup, protocols_of(settings, steps, last=True), steps))
    record.manifest["steps_done"] = steps
    record.close("finished")
    return record


def _opened(setup: Setup, temperature: float, folder: Path) -> Record:
    """The record in `folder`, new, finished, or begun and now empty again."""
    experiment, facts = setup.experiment, facts_of(setup)
    facts |= {"parts": {**facts["parts"], "trainer": TRAINER}, "sharpened_to": temperature}
    if not (folder / "manifest.json").is_file():
        return Record.create(folder, experiment, facts)
    record = Record.reopen(folder)
    mine = {"config_hash": experiment.cell_hash(), "seeds": experiment.seeds.model_dump(), **facts}
    for name in ("parts", "config_hash", "seeds", "sharpened_to", "model", "task", "laboratory"):
        if record.manifest.get(name) != mine[name]:
            raise UserError(
                f"{folder}: holds another record, with {name} {record.manifest.get(name)}, here {mine[name]}; "
                f"remove it, or give another --out"
            )
    if record.manifest["state"] != "finished":
        record.rewind(-1)
    return record


def main(
    experiment: Annotated[Path, typer.Argument(help="experiment file, as in experiments/")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as in train.steps=10")] = None,
    out: Annotated[Path, typer.Option(help="folder of the records, one for each replicate")] = Path("runs/sharpened"),
    replicates: Annotated[int, typer.Option(min=1, help="draws 0, 1, ..., RL seed alike")] = 10,
    base_seeds: Annotated[int, typer.Option(min=1, help="replicate r is of base seed r modulo this")] = 1,
    temperature: Annotated[float, typer.Option(min=0.01, help="what the logits are divided by")] = 0.3,
) -> None:
    """Write the records of all replicates."""
    configs = []
    for replicate in range(replicates):
        seeds = [f"seeds.base={replicate % base_seeds}", f"seeds.draw={replicate}", f"seeds.rl={replicate}"]
        configs.append(load_experiment(experiment, [*(overrides or []), f"name={TRAINER}", *seeds]))
    for config in configs[:base_seeds]:
        locate(config.model, config.seeds.base)  # a missing base is told before the first replicate
    for config in configs:
        folder = out / f"r{config.seeds.draw}"
        write_sharpened(config, temperature, folder)
        print(f"record: {folder}", flush=True)


if __name__ == "__main__":
    prepare_process()
    with in_one_line("sharpened"):
        typer.run(main)
