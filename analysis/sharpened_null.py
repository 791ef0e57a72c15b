"""Does the study's pipeline say "nothing gained" of a base that was only sharpened? Which claims would it satisfy?

    python -m analysis.sharpened_null RECORDS [--claims FILE]

RECORDS are those of `python -m ttrl_repro.sharpened`, in the place of the arm ARM. Exits with 2 if they come out as a
gain: above their first majority vote, or as support of a claim that training raises a measure above the base's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from analysis.claims import MEASURES, PATH, Claim, Values, first_majority, judge, read_claims
from analysis.load import Study, load, rows_of
from ttrl_repro.errors import UserError, in_one_line
from ttrl_repro.records import Record

ARM = "confirm-majority"
TRAINER = "sharpened"  # `parts.trainer` of the records
NOT_COMPARABLE = "not comparable"


def comparable(claim: Claim) -> bool:
    """Whether both sides are measures of ARM's own evaluations, so that a sharpened base has them, too."""
    return all(side.arm == ARM and side.measure in MEASURES for side in (claim.left, claim.right))


def says_gain(claim: Claim) -> bool:
    """Whether the claim says that training raises a measure above one of the base."""
    of_base = [side.measure.startswith("base_") for side in (claim.left, claim.right)]
    return claim.kind == "greater" and of_base == [False, True]


def load_sharpened(folder: Path) -> Study:
    """The records in `folder`. Raises UserError as `load`, and for a record that is not of a sharpened base."""
    study = load(folder)
    for run in study.runs["run"]:
        place = folder if (folder / "manifest.json").is_file() else folder / run
        if Record.reopen(place).manifest.get("parts", {}).get("trainer") != TRAINER:
            raise UserError(
                f"{place}: is not the record of a sharpened base; `python -m ttrl_repro.sharpened` makes some"
            )
    return study


def stand_in(study: Study, claims: Sequence[Claim]) -> pd.DataFrame:
    """The verdicts that finished records get in the place of ARM, on their draws in order: a row per claim.

    key, n, mean, low, high, p_holm, verdict, reason as in `claims.judge`; of the others verdict NOT_COMPARABLE. Holm's
    procedure covers the comparable claims alone: that is what is left to them in a study whose other claims hold,
    which is where they are supported most easily. Raises UserError as `Values.of`, and unless the records are of one
    cell and of different draws.
    """
    values = Values(study, study.runs["name"])
    runs = sorted(values.runs, key=lambda run: run["seed_draw"])
    if len({run["cell"] for run in runs}) != 1 or len({run["seed_draw"] for run in runs}) < len(runs):
        raise UserError("these records are not finished replicates of one cell, each of its own draw")
    mine = [claim for claim in claims if comparable(claim)]
    differences = [_padded(values, runs, claim) for claim in mine]
    judged = judge(mine, differences).set_index("key")
    columns = ["n", "mean", "low", "high", "p_holm", "verdict", "reason"]
    rows = [
        [claim.key, *judged.loc[claim.key, columns]]
        if claim.key in judged.index
        else [claim.key, 0, np.nan, np.nan, np.nan, np.nan, NOT_COMPARABLE, f"not of {ARM} and its base alone"]
        for claim in claims
    ]
    return pd.DataFrame(rows, columns=["key", *columns])


def _padded(values: Values, runs: Sequence[Mapping[str, Any]], claim: Claim) -> np.ndarray:
    """The claim's first replicates, (replicates,), NaN where there are too few runs."""
    found = [values.of(run, claim.left) - values.of(run, claim.right) for run in runs[: claim.replicates]]
    return np.array(found + [np.nan] * (claim.replicates - len(found)))


def report(first: pd.DataFrame, stood: pd.DataFrame, claims: Sequence[Claim]) -> str:
    """Both tables as markdown, with what a supported claim means for the study."""
    lines = ["| sharpened base | n | avg minus the first majority vote | |", "|---" * 4 + "|"]
    lines += [f"| {row['name']} | {row['n']} | {_interval(row)} | {row['verdict']} |" for row in rows_of(first)]
    lines += ["", f"| claim, sharpened base for {ARM} | n | left - right | p (Holm) | verdict | why |"]
    lines.append("|---" * 6 + "|")
    for row in rows_of(stood):
        p = "-" if np.isnan(row["p_holm"]) else f"{row['p_holm']:.4f}"
        lines.append(f"| {row['key']} | {row['n']} | {_interval(row)} | {p} | {row['verdict']} | {row['reason']} |")
    supported = set(stood[stood["verdict"] == "supported"]["key"])
    harmless = [claim.key for claim in claims if claim.key in supported and not says_gain(claim)]
    if harmless:
        lines += ["", f"A mere sharpener satisfies {', '.join(harmless)}: support says nothing about learning there."]
    if not supported:
        lines += ["", "A mere sharpener satisfies none of them."]
    return "\n".join(lines) + "\n"


def refuse_gains(first: pd.DataFrame, stood: pd.DataFrame, claims: Sequence[Claim]) -> None:
    """Raise UserError if a sharpened base comes out as a gain."""
    wrong = ["first majority exceeded"] if (first["verdict"] == "first majority exceeded").any() else []
    supported = set(stood[stood["verdict"] == "supported"]["key"])
    wrong += [f"{claim.key} supported" for claim in claims if says_gain(claim) and claim.key in supported]
    if wrong:
        raise UserError(f"a sharpened base came out as a gain ({', '.join(wrong)}): the pipeline is wrong, or its bar")


def _interval(row: Mapping[str, Any]) -> str:
    return "-" if np.isnan(row["mean"]) else f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def main(
    records: Annotated[Path, typer.Argument(help="folder of the sharpened records")],
    claims: Annotated[Path, typer.Option(help="claims file")] = PATH,
) -> None:
    """Print what the claims' pipeline says of sharpened bases."""
    written = read_claims(claims)
    study = load_sharpened(records)
    stood, first = stand_in(study, written), first_majority(study)
    print(report(first, stood, written), end="")
    needed = max((claim.replicates for claim in written if comparable(claim)), default=0)
    there = int((study.runs["state"] == "finished").sum())
    if there < needed:
        raise UserError(f"{records}: {there} finished replicates, and the claims ask for {needed}: nothing was tested")
    refuse_gains(first, stood, written)


if __name__ == "__main__":
    with in_one_line("sharpened_null"):
        typer.run(main)
