"""The figures' scripts on made-up records of every arm: all are drawn, follow from the records, and name them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from analysis import load
from analysis.arms import read_arms
from analysis.figures import Missing, Runs, write
from analysis.plots import long
from paper_figures.make_figures import main, same, scripts

pytestmark = pytest.mark.timeout(1200)  # the records of every arm are made first


@pytest.fixture(scope="module")
def runs(made_up_study):
    return Runs(load(made_up_study), read_arms())


@pytest.fixture(scope="module")
def drawn(runs, tmp_path_factory):
    """All figures, drawn from the made-up records."""
    out = tmp_path_factory.mktemp("figures")
    for name, module in scripts().items():
        write(name, module.ARMS, module.draw, runs, out, getattr(module, "OPTIONAL", False))
    return out


def test_every_figure_can_be_drawn_and_has_its_numbers_and_its_runs_beside_it(drawn, runs):
    names = scripts()
    pictures = {name for name in names if not name.startswith("table_")}
    assert len(pictures) >= 16
    assert len(names) - len(pictures) >= 4
    assert {path.name for path in drawn.iterdir()} == {
        f"{name}.{ending}"
        for name in names
        for ending in ("csv", "json", *(("pdf", "png") if name in pictures else ("md",)))
    }
    known = set(runs.study.runs["run"])
    for name, module in names.items():
        assert len(pd.read_csv(drawn / f"{name}.csv")), name
        arms = json.loads((drawn / f"{name}.json").read_text())["arms"]
        assert list(arms) == list(module.ARMS), name
        assert all(set(arm["runs"]) <= known and arm["runs"] for arm in arms.values())
        assert module.__doc__


def test_a_figure_s_numbers_are_the_runs(drawn, runs):
    table = pd.read_csv(drawn / "model_size.csv").set_index(["arm", "measure"])
    values = list(runs.values("s-83", "avg").values())
    found = table.loc[("s-83", "avg")]
    assert (found["n"], found["value"]) == (2, pytest.approx(np.mean(values), rel=1e-4))
    half = 12.7062 * np.std(values, ddof=1) / np.sqrt(2)
    assert found["high"] - found["value"] == pytest.approx(half, rel=1e-3, abs=1e-5)


def test_tables_have_a_row_per_arm_and_their_csv_the_same_numbers(drawn, runs):
    lines = (drawn / "table_main.md").read_text().splitlines()
    assert len(lines) == 2 + 9
    table = pd.read_csv(drawn / "table_main.csv").set_index(["arm", "measure"])
    assert f"| {table.loc[('m-500', 'avg'), 'value']:.3f} [" in next(
        line for line in lines if "mini-500, mini-m" in line
    )
    levels = pd.read_csv(drawn / "table_levels.csv").set_index(["arm", "measure"])
    assert levels.loc[("level-long", "together"), "n"] == 2
    assert (drawn / "table_findings.md").read_text().count("\n| ") > 60


def test_curves_are_means_over_replicates_to_where_the_first_ends(runs):
    curve = runs.curve("s-30", "label_accuracy")
    columns = [runs.measurements.metric(run["run"], "label_accuracy") for run in runs.of("s-30").values()]
    assert curve["step"].iloc[-1] == 40
    assert curve["value"].iloc[-1] == pytest.approx(np.mean([column[40] for column in columns]))
    assert curve["n"].tolist() == [2] * len(curve)


def test_arms_that_are_compared_share_their_replicates(made_up_study, tmp_path):
    for arm in ("s-30", "s-oracle"):
        shutil.copytree(made_up_study / arm, tmp_path / "study" / arm)
    shutil.rmtree(tmp_path / "study" / "s-oracle" / "r0")
    both = Runs(load(tmp_path / "study"), read_arms())
    assert [len(both.of(arm)) for arm in ("s-30", "s-oracle")] == [2, 1]
    assert [len(both.shared(("s-30", "s-oracle")).of(arm)) for arm in ("s-30", "s-oracle")] == [1, 1]
    table = both.shared(("s-30", "s-oracle")).table([("s-30", "avg", {})])
    assert table["low"].isna().all()  # one replicate has no interval
    assert both.curve("s-oracle", "entropy")["low"].isna().all()
    shutil.rmtree(tmp_path / "study" / "s-30" / "r1")
    with pytest.raises(Missing):
        Runs(load(tmp_path / "study"), read_arms()).shared(("s-30", "s-oracle"))


def test_what_has_no_runs_is_named(made_up_study, tmp_path):
    few = Runs(load(made_up_study / "s-30"), read_arms())
    with pytest.raises(Missing, match="no finished runs of s-83, s-500"):
        write("fig06_average_and_vote", ("s-30", "s-83", "s-500"), lambda _: None, few, tmp_path)


def test_long_tables_keep_their_names():
    one = pd.DataFrame({"step": [1], "value": [2.0]})
    assert long({"a": one, "b": one}).to_numpy().tolist() == [["a", 1, 2.0], ["b", 1, 2.0]]


def test_make_figures_draws_checks_and_notices(made_up_study, tmp_path, capsys):
    study = tmp_path / "study"
    for arm in ("s-30", "s-oracle", "s-frozen", "s-format"):
        shutil.copytree(made_up_study / arm, study / arm)
    out = tmp_path / "out"
    main(check=False, records=study, out=out)
    said = capsys.readouterr().out
    assert "drawn: fig08_oracle" in said
    assert "not drawn: fig06_average_and_vote: no finished runs of s-83, s-500" in said
    main(check=True, records=study, out=out)
    (out / "fig08_oracle.csv").write_text("something else\n")
    with pytest.raises(SystemExit, match=r"do not follow from the records: fig08_oracle\.csv; run make figures"):
        main(check=True, records=study, out=out)
    (out / "fig08_oracle.csv").unlink()
    with pytest.raises(SystemExit, match=r"fig08_oracle\.csv"):
        main(check=True, records=study, out=out)


def test_pictures_are_compared_by_their_pixels(drawn, tmp_path):
    one, other = drawn / "rewards.png", drawn / "consensus.png"
    assert same(one, one)
    assert not same(one, other)
    assert not same(one, tmp_path / "none.png")


def test_a_script_says_what_is_missing_in_one_line(repository, made_up_study, tmp_path):
    shutil.copytree(made_up_study / "s-30", tmp_path / "study" / "s-30")
    done = subprocess.run(
        [sys.executable, "paper_figures/fig08_oracle.py", "--records", tmp_path / "study", "--out", tmp_path],
        capture_output=True,
        text=True,
        cwd=repository,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "no finished runs of s-oracle, s-frozen, s-format" in done.stderr
