"""Votes on sampled answers of real models: label accuracy against k, and what stopping early saves.

    python paper_figures/votes_on_real_answers.py [NUMBERS] [--out FOLDER]

NUMBERS holds votes.csv and votes_adaptive.csv as `ttrl votes ... --out` writes them. Without arguments it draws the
committed ones and writes beside itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis.style import save
from analysis.votes import draw, markdown, read_study
from ttrl_repro.errors import UserError

HERE = Path(__file__).resolve().parent
NAME = "votes_on_real_answers"


def main(
    numbers: Annotated[Path, typer.Argument(help="folder of votes.csv and votes_adaptive.csv")] = HERE
    / "data"
    / "votes",
    out: Annotated[Path, typer.Option(help="where pdf, png, csv and md go")] = HERE,
) -> None:
    """Draw the figure, write the tables and print where they went."""
    curves, adaptive = read_study(numbers)
    paths = save(draw(curves), curves, out, NAME)
    paths.append(out / f"{NAME}.md")
    paths[-1].write_text(markdown(curves, adaptive))
    for path in paths:
        print(f"written: {path}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        raise SystemExit(f"{NAME}: {error}") from None
