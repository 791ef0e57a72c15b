"""A study as one HTML page: claims, findings, tables, figures, runs, and a browser of questions. `ttrl report`.

The page is one file that needs no network and works from file://: data as JSON, drawn by the script in page.html. Texts
of models are untrusted: they reach the page as text alone, never as markup.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from analysis.arms import ROOT, read_arms
from analysis.claims import preregistered
from analysis.compare import flattened
from analysis.findings import Judge, changed, confirmed, read_findings
from analysis.findings import table as findings_table
from analysis.load import Study, load, rows_of
from analysis.measures import Measurements, Quantity
from ttrl_repro.config import Experiment
from ttrl_repro.errors import UserError
from ttrl_repro.records import write_atomic

TEMPLATE = Path(__file__).with_name("page.html")
CURVES = (
    "label_accuracy", "ground_truth_ratio", "reward_accuracy", "advantage_accuracy", "majority_ratio", "entropy",
    "mean_tokens", "top_answer_share",
)  # fmt: skip
COLUMNS = ("base_avg", "base_best_maj", "avg", "maj", "greedy")
BROWSED = 24  # runs whose questions can be browsed, unless more are asked for: they are most of the page
TEXTS = 4  # sampled texts a question and step, where a record still has them
SHOWN_STEPS = 12  # of which texts are kept


def page(study: Study, folder: Path, figures: Path | None, browse: Sequence[str] | None = None) -> str:
    """The page of a study that was loaded from `folder`. figures: a folder of pictures and .md tables to show.

    browse: runs whose questions can be browsed (default: the first BROWSED).
    """
    chosen = list(study.runs["run"])[:BROWSED] if browse is None else list(browse)
    unknown = [run for run in chosen if run not in set(study.runs["run"])]
    if unknown:
        raise UserError(f"{folder}: has no run {unknown[0]!r}")
    arms = read_arms() if (ROOT / "experiments").is_dir() else {}
    content = {
        "claims": _claims(study),
        "findings": _findings(study) if arms else [],
        "tables": _markdown_tables(figures) if figures is not None else [],
        "figures": _pictures(figures) if figures is not None else [],
        "notes": _notes(study),
        "runs": _runs(study, {arm.experiment.cell_hash(): name for name, arm in arms.items()}),
        # The page is made to be shared: no entity, and of absolute paths the last part.
        "configs": {
            run: {name: _without_path(value) for name, value in flattened(_shown(config)).items()}
            for run, config in study.configs.items()
        },
        "curves": _curves(study),
        "browser": {run: browsed(study, folder, run) for run in chosen},
    }
    # Neither a closing tag nor a comment can come out of the data.
    data = json.dumps(_plain(content), allow_nan=False, sort_keys=False).replace("<", "\\u003c").replace("&", "\\u0026")
    return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", data)


def write_page(folder: Path, out: Path, figures: Path | None = None, browse: Sequence[str] | None = None) -> None:
    """Write the page of the records in a folder; damaged ones are left out and named. Raises UserError as `load`."""
    if not out.resolve().parent.is_dir():
        raise UserError(f"--out: no such folder {out.resolve().parent}")
    study = load(folder, skip_damaged=True)
    for run, reason in study.left_out.items():
        print(f"left out: {run}: {reason}")
    write_atomic(out, page(study, folder, figures, browse))


def _shown(config: Experiment) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"tracking"})


def _without_path(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _notes(study: Study) -> list[str]:
    """What was left out or does not count, a line each."""
    note = changed()
    return [
        *([note] if note else []),
        *(f"left out as damaged: {run}: {reason}" for run, reason in study.left_out.items()),
        *(
            f"not of the frozen laboratory, so not in claims and findings: {run}: {why}"
            for run, why in study.foreign.items()
        ),
    ]


def _claims(study: Study) -> list[dict[str, Any]]:
    try:
        found = preregistered(study)
    except UserError as error:
        return [{"statement": "The confirmatory claims are not judged here", "reason": str(error)}]
    named = {claim.key: claim.statement for claim in found.claims}
    rows = [{"statement": named[row["key"]], **row} for row in rows_of(found.verdicts)]
    return [*rows, {"statement": found.code, "reason": ""}]


def _findings(study: Study) -> list[dict[str, Any]]:
    judge = Judge(study, read_arms(), confirmed(study))
    return rows_of(findings_table(judge, read_findings()))


def _runs(study: Study, arms: Mapping[str, str]) -> list[dict[str, Any]]:
    measurements = Measurements(study)
    rows = []
    for run in rows_of(study.runs):
        row = {name: run[name] for name in ("run", "cell", "name", "model", "task", "reward", "algorithm", "state")}
        row |= {name: run[name] for name in ("seed_base", "seed_draw", "seed_rl", "steps_done")}
        row["arm"] = arms.get(run["cell"], "")
        for measure in COLUMNS:
            try:
                row[measure] = measurements.of(run, Quantity(arm="x", measure=measure))
            except UserError:  # absent, not zero
                row[measure] = None
        rows.append(row)
    return rows


def _curves(study: Study) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    wanted = study.metrics[study.metrics["metric"].isin(CURVES)]
    for run, group in wanted.groupby("run", sort=False):
        table = group.pivot(index="step", columns="metric", values="value").sort_index()
        columns = {name: [_rounded(value) for value in table[name]] for name in CURVES if name in table}
        out[str(run)] = {"steps": [int(step) for step in table.index], **columns}
    return out


def browsed(study: Study, folder: Path, run: str) -> dict[str, Any]:
    """A run's votes, question by question and step by step, and what is left of its sampled texts.

    questions; steps; of each question by step (`top` is null where it was not asked): `right` (1, 0; null without true
    labels), `label`, `key` (its class; null: nobody answered), `top` (share of the votes). texts: question -> step ->
    the first samples (text, reward).
    """
    votes = study.votes[study.votes["run"] == run] if len(study.votes) else study.votes
    if not len(votes):
        return {"questions": [], "steps": [], "right": [], "label": [], "key": [], "top": [], "texts": {}}
    questions = sorted(votes["question_id"].unique())
    steps = sorted(int(step) for step in votes["step"].unique())
    place = {question: i for i, question in enumerate(questions)}, {step: i for i, step in enumerate(steps)}
    grids: dict[str, list[list[Any]]] = {
        name: [[None] * len(steps) for _ in questions] for name in ("right", "label", "key", "top")
    }
    for row in rows_of(votes[["question_id", "step", "label", "label_key", "label_correct", "top_count", "n"]]):
        i, j = place[0][row["question_id"]], place[1][int(row["step"])]
        right = row["label_correct"]
        grids["right"][i][j] = None if right is None or pd.isna(right) else int(right)
        grids["label"][i][j], grids["key"][i][j] = row["label"], row["label_key"]
        grids["top"][i][j] = _rounded(row["top_count"] / row["n"])
    root = folder / run if (folder / run).is_dir() else folder
    return {"questions": questions, "steps": steps, **grids, "texts": _texts(root / "samples", steps)}


def _texts(samples: Path, steps: Sequence[int]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    out: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for step in sorted({steps[i] for i in np.linspace(0, len(steps) - 1, SHOWN_STEPS).astype(int)}):
        path = samples / f"step-{step:06d}.parquet"
        if not path.is_file():
            continue
        for row in pq.read_table(path, columns=["question_id", "sample", "text", "reward"]).to_pylist():
            if row["sample"] < TEXTS:
                shown = {"text": row["text"], "reward": row["reward"]}
                out.setdefault(row["question_id"], {}).setdefault(str(step), []).append(shown)
    return out


def _pictures(folder: Path) -> list[dict[str, str]]:
    return [
        {"name": path.stem, "data": base64.b64encode(path.read_bytes()).decode()}
        for path in sorted(folder.glob("*.png"))
    ]


def _markdown_tables(folder: Path) -> list[dict[str, Any]]:
    """The tables in a folder's .md files but those of claims and findings: name, columns, rows."""
    out = []
    for path in sorted(folder.glob("table_*.md")):
        if path.stem == "table_findings":
            continue
        for number, block in enumerate(path.read_text(encoding="utf-8").split("\n\n")):
            lines = [line for line in block.splitlines() if line.startswith("|")]
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            if len(cells) > 2:
                name = path.stem if number == 0 else f"{path.stem}, {number + 1}"
                out.append({"name": name, "columns": cells[0], "rows": cells[2:]})
    return out


def _rounded(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)


def _plain(value: Any) -> Any:
    """What JSON can hold: NaN and NumPy's numbers made plain."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
