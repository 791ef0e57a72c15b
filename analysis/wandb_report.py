"""The study as a W&B Report (package wandb-workspaces, extra `reports`): built and validated offline, pushed if asked.

ttrl report RECORDS --wandb ENTITY/PROJECT [--push]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.arms import read_arms
from analysis.claims import preregistered
from analysis.findings import Judge, confirmed, read_findings, table
from analysis.findings import markdown as findings_markdown
from analysis.load import Study, load
from ttrl_repro.errors import UserError

PANELS = ("label_accuracy", "ground_truth_ratio", "reward_accuracy", "majority_ratio", "entropy", "top_answer_share")
GROUPS = {
    "model size and task": "Config('reward') = 'majority' and Config('algorithm.name') = 'grpo'",
    "rewards": "Config('model') = 'mini-xs' and Config('task') = 'mini-30'",
    "all runs": "",
}


def build(records: Path, project: str) -> Any:
    """The report, of `ENTITY/PROJECT`. Raises UserError without the package, and as `load`."""
    try:
        from wandb_workspaces.reports import v2 as wr
    except ImportError as error:
        raise UserError("a report on W&B needs wandb-workspaces: pip install 'ttrl-repro[reports]'") from error
    entity, slash, name = project.partition("/")
    if not (entity and slash and name):
        raise UserError(f"--wandb: expected ENTITY/PROJECT, got {project!r}")
    study = load(records)
    judge = Judge(study, read_arms(), confirmed(study))
    found = table(judge, read_findings())
    report = wr.Report(
        entity=entity,
        project=name,
        title="TTRL, a reproduction study",
        description=f"{len(study.runs)} runs; made from their records by ttrl report",
        width="fixed",
    )
    report.blocks = [
        wr.TableOfContents(),
        wr.H1("Confirmatory claims"),
        wr.MarkdownBlock(_claims(study)),
        wr.H1("Findings"),
        wr.MarkdownBlock(findings_markdown(found)),
        wr.H1("Curves"),
        *_grids(wr),
    ]
    return report


def _claims(study: Study) -> str:
    try:
        return preregistered(study).markdown()
    except UserError as error:
        return f"Not judged here: {error}\n"


def _grids(wr: Any) -> list[Any]:
    blocks: list[Any] = []
    for title, filters in GROUPS.items():
        panels = [
            wr.LinePlot(title=metric.replace("_", " "), x="Step", y=[metric], groupby="group") for metric in PANELS
        ]
        # Without entity and project it is the report's own, and needs no server to look it up.
        runs = wr.Runset(name=title, filters=filters, groupby=["group"])
        blocks += [wr.H2(title), wr.PanelGrid(runsets=[runs], panels=panels)]
    return blocks


def content(report: Any) -> dict[str, Any]:
    """What would be sent to W&B, checked against the package's own model of it."""
    model = report._to_model()
    spec = model.spec.model_dump_json(by_alias=True, exclude_none=True)
    type(model.spec).model_validate_json(spec)
    return dict(json.loads(spec))


def publish(records: Path, project: str, push: bool) -> list[str]:
    """Build and validate the report; with `push` send it. What was done, a line each. Raises UserError as `build`."""
    report = build(records, project)
    blocks = content(report)["blocks"]
    lines = [f"report for {project}: {len(blocks)} blocks, valid"]
    if not push:
        return [*lines, "not sent: add --push, with a W&B key (wandb login)"]
    import wandb

    if wandb.api.api_key is None:
        raise UserError("no W&B key here: wandb login, or WANDB_API_KEY")
    report.save()
    return [*lines, f"sent: {report.url}"]
