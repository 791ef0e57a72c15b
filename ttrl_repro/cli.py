"""The `ttrl` command. Thin: it reads arguments, calls the library and prints what it returns."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttrl_repro.errors import UserError, in_one_line
from ttrl_repro.startup import prepare_process
from ttrl_repro.sweeps.command import app as sweep_app

if TYPE_CHECKING:
    from ttrl_repro.records import Record


class Split(StrEnum):
    """The sets of a task, as typer wants choices."""

    train = "train"
    fresh = "fresh"


app = typer.Typer(
    help="TTRL: train on the majority vote of a model's own answers, and measure what that does.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.add_typer(sweep_app, name="sweep")


@app.command()
def run(
    experiment: Annotated[Path, typer.Argument(help="experiment file, as in experiments/")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as in train.steps=10")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the record (default: runs/NAME-HASH-bB-dD-rR)")] = None,
) -> None:
    """Run an experiment: evaluate the base, train by TTRL, evaluate again, print the table."""
    from ttrl_repro.config import load_experiment, name_of

    config = load_experiment(experiment, overrides)
    folder = out or Path("runs") / name_of(config)
    prepare_process()
    from ttrl_repro import run as runner

    print_outcome(runner.start(config, folder))


@app.command()
def resume(
    record: Annotated[Path, typer.Argument(help="folder of a run that was interrupted or killed")],
) -> None:
    """Continue a run from its newest checkpoint, to the same result as if it had never stopped."""
    prepare_process()
    from ttrl_repro import run as runner

    print_outcome(runner.resume(record))


@app.command()
def show(record: Annotated[Path, typer.Argument(help="folder of a run")]) -> None:
    """Print the table of a run from its record."""
    from ttrl_repro.report import print_report

    print_report(record)


@app.command()
def questions(
    record: Annotated[Path, typer.Argument(help="folder of a run, or of a cell's replicates")],
) -> None:
    """Question by question: which turned right or wrong, and whose label changed."""
    from analysis.accounting import print_accounting

    print_accounting(record)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="folders of runs, or of a cell's replicates")],
) -> None:
    """Runs side by side: where their configs differ, what came of it, and the paired difference."""
    from analysis.compare import print_comparison

    print_comparison(runs)


@app.command()
def report(
    records: Annotated[Path, typer.Argument(help="folder of records")],
    out: Annotated[Path, typer.Option(help="the page")] = Path("report.html"),
    figures: Annotated[Path | None, typer.Option(help="folder of pictures and tables to show")] = None,
    browse: Annotated[list[str] | None, typer.Option(help="run whose questions can be browsed (repeat it)")] = None,
    wandb: Annotated[str | None, typer.Option(help="ENTITY/PROJECT: a W&B Report instead of the page")] = None,
    push: Annotated[bool, typer.Option("--push", help="with --wandb: send it, not only build and validate it")] = False,
) -> None:
    """One HTML page of many runs, without network: claims, findings, tables, figures, curves, questions."""
    if wandb is not None:
        from analysis.wandb_report import publish

        print("\n".join(publish(records, wandb, push)))
        return
    from analysis.page import write_page

    write_page(records, out, figures, browse)
    print(f"written: {out}")


@app.command()
def claims(
    records: Annotated[
        Path | None, typer.Argument(help="folder with a folder of replicates for each arm; without: the claims alone")
    ] = None,
    file: Annotated[Path | None, typer.Option("--claims", help="claims file (default: the study's own)")] = None,
    out: Annotated[Path | None, typer.Option(help="write the tables to this .md")] = None,
) -> None:
    """Test the claims that were written down before the runs, on records of the frozen laboratory."""
    from analysis.claims import PATH, plan, read_claims, report

    if out is not None and not out.resolve().parent.is_dir():
        raise UserError(f"--out: no such folder {out.resolve().parent}")
    text = report(records, file or PATH) if records else plan(read_claims(file or PATH))
    print(text, end="")
    if out is not None:
        out.write_text(text)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="a run's folder (its last checkpoint), a miniature, a path or a hub id")],
    task: Annotated[str, typer.Argument(help="a task, or a path to a .jsonl")],
    k: Annotated[int, typer.Option(min=1, help="samples per question")] = 16,
    temperature: Annotated[float, typer.Option(min=0.0, help="sampling temperature; 0 for greedy alone")] = 0.6,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0)] = 0.95,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="longest answer (default: the run's, or a miniature's; else needed)"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    draw: Annotated[int, typer.Option(min=0, help="which draw of a miniature task")] = 0,
    split: Annotated[Split, typer.Option(help="a miniature task's set")] = Split.train,
    base_seed: Annotated[int, typer.Option(min=0, help="which base of a miniature")] = 0,
    out: Annotated[Path | None, typer.Option(help="write the sampled answers to this .parquet")] = None,
) -> None:
    """Evaluate any checkpoint on any task: greedy pass@1, avg@k, maj@k and pass@k."""
    if out is not None and not out.resolve().parent.is_dir():
        raise UserError(f"--out: no such folder {out.resolve().parent}")
    prepare_process()
    from ttrl_repro.evaluate import Protocol, evaluate_model
    from ttrl_repro.records import EVAL, write_rows
    from ttrl_repro.report import print_evaluation

    rows = evaluate_model(
        model,
        task,
        protocol=Protocol(temperature, top_p, k),
        max_new_tokens=max_new_tokens,
        seed=seed,
        draw=draw,
        split=split.value,
        base_seed=base_seed,
    )
    print_evaluation(rows, f"{model} on {task} ({split.value}), T={temperature:g}, top-p {top_p:g}, seed {seed}")
    if out is not None:
        write_rows(out, rows, EVAL)
        print(f"answers: {out}")


@app.command()
def votes(
    files: Annotated[list[Path], typer.Argument(help=".jsonl of sampled answers: id, answers, maybe gold and correct")],
    out: Annotated[Path | None, typer.Option(help="folder for csv, pdf and png")] = None,
    chunk: Annotated[int, typer.Option(min=1, help="samples between two looks of adaptive voting")] = 8,
    orders: Annotated[int, typer.Option(min=1, help="random orders of a question's samples")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="of these orders")] = 0,
) -> None:
    """What a vote over k sampled answers is worth as a label, and what stopping it early saves."""
    from analysis.votes import print_study, study, write_study

    curves, adaptive = study(files, chunk=chunk, orders=orders, seed=seed)
    print_study(curves, adaptive)
    if out is not None:
        for path in write_study(curves, adaptive, out):
            print(f"written: {path}")


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(help="a recipe's name, or a path to a .yaml")],
    seed: Annotated[int, typer.Option(min=0, help="base seed: initialisation, corpus and order")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for the base (default: the user's cache)")] = None,
) -> None:
    """Train a miniature base from scratch, from its recipe."""
    from ttrl_repro.miniature.recipes import load_recipe

    loaded = load_recipe(recipe)
    prepare_process()
    from ttrl_repro.miniature.pretrain import pretrain_base

    print(f"base written to {pretrain_base(loaded, seed, out)}")


@app.command()
def bases(
    pretrain: Annotated[bool, typer.Option("--pretrain", help="make those that are missing (minutes each)")] = False,
    again: Annotated[bool, typer.Option("--again", help="evaluate anew, also bases whose card is up to date")] = False,
    out: Annotated[Path | None, typer.Option(help="folder for bases.csv and bases.md")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="compare with the reference; exit code 2 if outside or missing")
    ] = False,
    reference: Annotated[Path | None, typer.Option(help="another reference, as --out writes bases.csv")] = None,
    write_reference: Annotated[
        bool, typer.Option("--write-reference", help="make this machine's bases the reference")
    ] = False,
) -> None:
    """What every miniature base does on every task: evaluated where no card is kept, then as a table."""
    prepare_process()
    from ttrl_repro.miniature import bases as library
    from ttrl_repro.miniature.card import CardProtocol
    from ttrl_repro.progress import Progress

    every, protocol, path = library.all_bases(), CardProtocol.standard(), reference or library.reference_path()
    known = library.read_csv(path) if check else []  # a wrong path is told before the evaluation
    with Progress() as progress:
        rows = library.survey(every, protocol, progress, pretrain, again)
    library.print_survey(rows, protocol)
    missing = library.missing_text(every)
    if missing:
        print(missing)
    for written in library.write_survey(rows, protocol, out) if out is not None else []:
        print(f"written: {written}")
    if write_reference:
        library.write_reference(rows, every, path)
        print(f"reference: {path}")
    if check:
        print(library.check(rows, known, every))


@app.command()
def keep(
    record: Annotated[Path, typer.Argument(help="folder of a finished run, or of many")],
    folder: Annotated[Path, typer.Argument(help="where the compact record goes, as paper_figures/data/demo/r0")],
) -> None:
    """Copy a run's compact record: all that figures need, without sampled texts and checkpoints.

    Of a folder of many: those that are finished and not there yet.
    """
    from ttrl_repro.records import keep_all, keep_compact

    if (record / "manifest.json").is_file():
        keep_compact(record, folder)
        print(f"compact record: {folder}")
    else:
        copied, before = keep_all(record, folder)
        print(f"compact records: {folder}, {copied} copied, {before} there before")


@app.command("sync")
def sync_command(
    folders: Annotated[list[Path], typer.Argument(help="folders with finished records, at any depth")],
    again: Annotated[bool, typer.Option("--again", help="also what was uploaded before")] = False,
) -> None:
    """Upload what runs logged offline to W&B, and check that W&B has what the records have."""
    from ttrl_repro.sync import Wandb, sync

    uploaded = sync(folders, Wandb(), again)
    print(f"{uploaded} runs uploaded")


def print_outcome(record: Record) -> None:
    """The table of a run that has just ended, once."""
    from ttrl_repro.processes import processes
    from ttrl_repro.report import print_report

    if processes().is_main_process:
        print_report(record.folder)


def main() -> None:
    """Entry point: a UserError is one line and exit code 2; an interrupt exits with 128 + signal."""
    with in_one_line("ttrl"):
        app()


if __name__ == "__main__":
    main()
