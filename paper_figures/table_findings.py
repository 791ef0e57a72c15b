"""Every claim of the paper, of its critics, and of the paper about itself, with its verdict here."""

from __future__ import annotations

import pandas as pd

from analysis.arms import read_arms
from analysis.claims import read_file
from analysis.figures import Runs, script
from analysis.findings import Judge, confirmed, markdown, quantities_of, read_findings, table

NAME = "table_findings"
CLAIMED = [name for name, arm in read_arms().items() if arm.experiment.name in read_file().arms]
ARMS = tuple(
    dict.fromkeys([*CLAIMED, *(q.arm for f in read_findings() for one in f.evidence for q in quantities_of(one))])
)
OPTIONAL = True  # a finding without its runs is insufficient


def draw(runs: Runs) -> tuple[str, pd.DataFrame]:
    """A row per claim, in the order of analysis/findings.yaml."""
    judge = Judge(runs.study, read_arms(), confirmed(runs.study))
    found = table(judge, read_findings())
    return markdown(found), found


if __name__ == "__main__":
    script(NAME, ARMS, draw, OPTIONAL)
