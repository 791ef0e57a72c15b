import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from analysis import load
from analysis.phase import (
    LABELS,
    OVER_VOTE,
    draw,
    exposed_share,
    markdown,
    misreaders,
    outcome,
    phase_runs,
    phase_table,
    title_of,
)
from tests.test_claims import TABLES, answers
from ttrl_repro.config import Seeds
from ttrl_repro.errors import UserError
from ttrl_repro.records import Record


def test_outcomes():
    up, down, none = np.array([0.03, 0.2]), np.array([-0.03, -0.2]), np.array([0.0, 0.1])
    assert outcome(up, none) == "gain"
    assert outcome(none, none) == "stall"  # one replicate did not pass the vote
    assert outcome(down, down) == "collapse"
    assert outcome(down, none) == "stall"  # below the vote, but the labels hold: no collapse of what is taught


def test_the_table_has_a_row_per_cell_with_intervals():
    runs = pd.DataFrame(
        {
            "pi": [0.1, 0.1, 0.6, 0.6],
            "exposed": [0.9, 0.9, 0.9, 0.9],
            OVER_VOTE: [0.1, 0.2, -0.3, -0.1],
            LABELS: [0.1, 0.1, -0.3, -0.1],
        }
    )
    table = phase_table(runs)
    assert table["outcome"].tolist() == ["gain", "collapse"]
    assert table[OVER_VOTE].tolist() == pytest.approx([0.15, -0.2])
    # t(.975, 1) = 12.706, times .1 / 2 for two values .1 apart.
    assert table[f"{OVER_VOTE}, high"].tolist() == pytest.approx([0.15 + 12.706 * 0.05, -0.2 + 12.706 * 0.1], abs=1e-3)
    assert table["n"].tolist() == [2, 2]
    lines = markdown(table).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| 0.10 | 0.90 | 2 | gain | +0.150 [-0.485, +0.785] | +0.100 [+0.100, +0.100] |")
    assert len(draw(table, "title").axes) == 2


def test_places_in_the_diagram_come_from_recipes():
    assert exposed_share("phase-33") == pytest.approx(1 / 3)
    assert exposed_share("phase-90") == pytest.approx(0.9)
    assert misreaders("mini-xs-pi40") == 0.4
    with pytest.raises(UserError, match="depends on the number of terms"):
        misreaders("mini-xs")


# -- records -------------------------------------------------------------------------------------


@pytest.fixture
def cell(tmp_path, experiment):
    """A cell with one run: avg@2 .5 after training; the base's maj@4 is .5 at the evaluation temperature, 1 at best."""
    changes = {"model": "mini-xs-pi40", "task": "phase-33", "seeds": Seeds(base=2, draw=2, rl=2)}
    facts = {
        "model": {"name": "mini-xs-pi40", "parameters": 200_064},
        "task": {"name": "phase-33", "questions": 60, "fingerprint": "f"},
    }
    record = Record.create(tmp_path / "cells" / "pi40-33" / "r2", experiment.model_copy(update=changes), facts)
    for step, accuracy in enumerate((0.9, 0.8, 0.6, 0.4, 0.2, 0.0), start=1):
        record.append("metrics.jsonl", {"step": step, "label_accuracy": accuracy})
    for step in (0, 6):
        rows = [row for (at, t), codes in TABLES.items() if at == step for row in answers(at, t, codes)]
        record.write_eval(step, [{**row, "task": "phase-33"} for row in rows])
    record.manifest["steps_done"] = 6
    record.close("finished")
    return tmp_path / "cells" / "pi40-33"


def test_the_bar_is_the_vote_at_the_best_temperature(cell):
    (run,) = phase_runs(load(cell)).to_dict("records")
    assert (run["pi"], run["exposed"], run["replicate"]) == (0.4, pytest.approx(1 / 3), "b2-d2-r2")
    assert run[OVER_VOTE] == pytest.approx(0.5 - 1.0)
    assert run[LABELS] == pytest.approx(0.4 - 0.9)


def test_the_title_is_what_the_records_say(cell):
    table = phase_table(phase_runs(load(cell)))
    title = "TTRL for 6 steps on 60 questions, 0.2 M parameters; means over 1 replicates"
    assert title_of(cell, load(cell), table) == title
    record = Record.reopen(cell / "r2")
    record.manifest["model"]["parameters"], record.manifest["task"]["questions"] = 891_392, 30
    record.save_manifest()
    assert title_of(cell, load(cell), table) == title.replace("60", "30").replace("0.2", "0.9")


def test_the_figure(cell, tmp_path, repository):
    command = [sys.executable, repository / "paper_figures" / "phase_diagram.py", "--records", cell.parent]
    subprocess.run([*command, "--out", tmp_path / "out"], check=True, cwd=repository)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(f"phase_diagram.{ending}" for ending in ("csv", "md", "pdf", "png")),
        "phase_diagram_runs.csv",
    ]


def test_the_committed_diagram_follows_from_the_committed_records(repository, tmp_path):
    script = repository / "paper_figures" / "phase_diagram.py"
    subprocess.run([sys.executable, script, "--out", tmp_path], check=True, capture_output=True, cwd=repository)
    for name in ("phase_diagram.csv", "phase_diagram.md", "phase_diagram_runs.csv"):
        assert (tmp_path / name).read_bytes() == (repository / "paper_figures" / name).read_bytes(), name


def test_every_outcome_is_on_the_committed_diagram(repository):
    table = pd.read_csv(repository / "paper_figures" / "phase_diagram.csv")
    assert len(table) == 12
    assert sorted(table["pi"].unique()) == [0.1, 0.25, 0.4, 0.6]
    assert set(table["outcome"]) <= {"gain", "stall", "collapse"}


# -- experiments/phase.sh, with a stand-in for `ttrl` -----------------------------------------------

TTRL = """#!/usr/bin/env bash
echo "$*" >>"$STAND_IN/calls"
case $1 in
pretrain)
    base=$STAND_IN/bases/$2-seed$4
    if [ "$2-seed$4" = "${FAIL:-}" ]; then echo "ttrl: no room on the disk" >&2; exit 2; fi
    if [ -e "$base" ]; then echo "ttrl: $base: is not empty; give another folder with --out" >&2; exit 2; fi
    mkdir -p "$base" ;;
run)
    while [ "$1" != --out ]; do shift; done
    mkdir -p "$2"
    if [ "$2" = "${KILL:-}" ]; then echo '  "state": "running",' >"$2/manifest.json"; exit 137; fi
    echo '  "state": "finished",' >"$2/manifest.json" ;;
resume)
    echo '  "state": "finished",' >"$2/manifest.json" ;;
esac
"""


@pytest.fixture
def phase(tmp_path, repository):
    """Runs the script into tmp_path/out; returns what it said, and the calls of `ttrl` that it made."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ttrl").write_text(TTRL)
    (tmp_path / "bin" / "ttrl").chmod(0o755)

    def phase(**environment):
        (tmp_path / "calls").write_text("")
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            [repository / "experiments" / "phase.sh", tmp_path / "out"],
            env={**os.environ, "PATH": path, "STAND_IN": str(tmp_path), **environment},
            capture_output=True,
            text=True,
        )
        return done, (tmp_path / "calls").read_text().splitlines()

    return phase


def test_a_failed_pretraining_ends_the_script_with_its_message(phase):
    done, calls = phase(FAIL="mini-xs-pi25-seed0")
    assert done.returncode != 0
    assert "pretraining mini-xs-pi25, seed 0, failed:\nttrl: no room on the disk" in done.stderr
    assert calls[0] == "pretrain mini-xs-pi10 --seed 0"
    assert [call.split()[0] for call in calls[1:4]] == ["run"] * 3
    assert calls[4:] == ["pretrain mini-xs-pi25 --seed 0"]


def test_the_script_goes_on_where_it_stopped(phase, tmp_path):
    killed = tmp_path / "out" / "pi25-33" / "phase" / "r1"
    done, calls = phase(KILL=str(killed), JOBS="2")
    assert done.returncode != 0
    assert f"{killed} failed:" in done.stderr
    assert sum(call.startswith("pretrain ") for call in calls) == 12
    runs = [call for call in calls if call.startswith("run ")]
    assert len(runs) == len(set(runs)) == 36
    # Replicate r has base seed, draw and RL seed r.
    (one,) = [call.split() for call in runs if f"{killed} " in call]
    assert one[2:] == [
        *("seeds.draw=1", "seeds.rl=1", "--out", str(killed)),
        *("model=mini-xs-pi25", "task=phase-33", "seeds.base=1"),
    ]
    done, calls = phase()
    assert done.returncode == 0, done.stderr
    assert [call for call in calls if not call.startswith("pretrain ")] == [f"resume {killed}"]
