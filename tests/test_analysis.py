import json
import shutil
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis import load
from analysis.controls import PAIRED, markdown, per_run, summarise, with_paired
from analysis.curves import paper_curves, training_curves
from analysis.load import rows_of
from ttrl_repro.errors import UserError
from ttrl_repro.records import EVAL, Record, write_rows
from ttrl_repro.summary import codes_by_protocol

RUNS = ("base", "draw", "rl")


@pytest.fixture
def study_folder(tmp_path, experiment):
    """Two replicates of one cell with known numbers, made by the record's own writer."""
    folder = tmp_path / "study"
    for rl in (0, 1):
        config = experiment.model_copy(update={"seeds": experiment.seeds.model_copy(update={"rl": rl})})
        record = Record.create(
            folder / f"r{rl}", config, {"task": {"name": "mini-30", "fingerprint": "f"}, "model": {}}
        )
        for step in (1, 2):
            values = {"label_accuracy": 0.2 * step + 0.1 * rl, "majority_ratio": 0.5, "entropy": 1.0 / step}
            record.append("metrics.jsonl", {"step": step, **values})
        for step in (0, 2):
            rows = []
            for question, gold in (("a", "1"), ("b", "2")):
                for sample in range(4):
                    # Step 0: one of four right; step 2: two of four.
                    key = gold if sample <= step // 2 else "9"
                    rows.append(answer(step, question, sample, key, gold, 0.6))
                rows.append(answer(step, question, 0, gold, gold, 0.0))
            record.write_eval(step, rows)
        record.manifest["steps_done"] = 2
        record.close("finished")
    return folder


def answer(step, question, sample, key, gold, temperature):
    return {
        "step": step, "task": "mini-30", "split": "train", "temperature": temperature, "top_p": 0.95,
        "protocol": "sampled" if temperature else "greedy", "question_id": question, "sample": sample,
        "answer": key, "key": key, "gold_key": gold, "tokens": 3, "finished": True,
    }  # fmt: skip


def value(table, run, series, step, column="value"):
    (found,) = table[(table["run"] == run) & (table["series"] == series) & (table["step"] == step)][column]
    return found


def test_load_gives_tidy_tables(study_folder):
    study = load(study_folder)
    assert list(study.runs["run"]) == ["r0", "r1"]
    assert study.runs["cell"].nunique() == 1
    assert list(study.runs["seed_rl"]) == [0, 1]
    assert len(study.metrics) == 2 * 2 * 3
    assert len(study.answers) == 2 * 2 * 10
    assert len(load(study_folder / "r1").runs) == 1


def test_an_abstention_is_none_in_the_tables_too(study_folder):
    path = study_folder / "r0" / "eval" / "step-000000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0]["key"] = rows[0]["answer"] = None
    write_rows(path, rows, EVAL)
    answers = load(study_folder).answers
    assert rows_of(answers[answers["run"] == "r0"])[0]["key"] is None
    assert (codes_by_protocol(rows_of(answers))["mini-30", "train", 0, 0.6] == -1).sum() == 1
    assert rows_of(answers[:0]) == []


def test_curves_have_the_numbers_of_the_records(study_folder):
    study = load(study_folder)
    table = training_curves(study, study.runs["cell"][0])
    assert value(table, "r0", "label_accuracy", 2) == pytest.approx(0.4)
    assert value(table, "mean", "label_accuracy", 2) == pytest.approx(0.45)
    # t interval of (0.4, 0.5): half-width 12.706 * 0.0707 / sqrt(2).
    assert value(table, "mean", "label_accuracy", 2, "high") == pytest.approx(0.45 + 12.706 * 0.05, abs=1e-3)
    assert value(table, "r0", "avg@2", 0) == 0.5  # k is 2: the first two samples
    assert value(table, "r0", "avg@2", 2) == 1.0
    assert value(table, "r0", "greedy", 2) == 1.0
    assert value(table, "r0", "first maj@4", 0) == 0.0
    assert value(table, "r0", "avg@2", 0, "population") == "answers"
    assert value(table, "mean", "avg@2", 0, "population") == "replicates"


def test_a_single_run_has_no_mean(study_folder):
    study = load(study_folder / "r0")
    assert "mean" not in set(training_curves(study, study.runs["cell"][0])["run"])


def test_the_mean_ends_where_the_first_run_does(study_folder):
    path = study_folder / "r1" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "steps_done": 1}))  # it stopped early
    study = load(study_folder)
    table = training_curves(study, study.runs["cell"][0])
    steps = table[(table["run"] == "mean") & (table["series"] == "label_accuracy")]["step"]
    assert list(steps) == [1]
    assert value(table, "r0", "label_accuracy", 2) == pytest.approx(0.4)


def test_unfinished_runs_are_not_drawn(study_folder):
    for run in ("r0", "r1"):
        path = study_folder / run / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "state": "interrupted"}))
    study = load(study_folder)
    with pytest.raises(UserError, match="no finished run"):
        training_curves(study, study.runs["cell"][0])


def test_the_same_replicate_twice_is_refused(study_folder):
    shutil.copytree(study_folder / "r0", study_folder / "r2")
    with pytest.raises(UserError, match="the same replicate of one cell twice: r0, r2"):
        load(study_folder)


def test_other_questions_under_one_name_are_refused(study_folder):
    path = study_folder / "r1" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["task"]["fingerprint"] = "g"
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="were given different questions under one name: r0, r1"):
        load(study_folder)


def test_controls_by_hand(study_folder):
    runs = per_run(load(study_folder))
    assert list(runs["base avg"]) == [0.5, 0.5]
    assert list(runs["trained avg"]) == [1.0, 1.0]  # k = 2
    assert list(runs["first maj"]) == [0.0, 0.0]
    assert list(runs["gain over first maj"]) == [1.0, 1.0]
    assert list(runs["boxed gain"]) == [0.0, 0.0]
    control = runs.assign(reward="format", gain=[0.1, 0.3])
    both = with_paired(pd.concat([runs, control], ignore_index=True))
    assert list(both[PAIRED]) == pytest.approx([0.4, 0.2, 0.0, 0.0])
    found = summarise(both).set_index(["reward", "measure"]).loc[("majority", PAIRED)]
    assert found["mean"] == pytest.approx(0.3)
    assert found["high"] == pytest.approx(0.3 + 12.7062 * 0.1, abs=1e-4)
    assert "| majority | train | 2 | 0.500 [0.500, 0.500] |" in markdown(summarise(both))
    with pytest.raises(UserError, match="no format run for replicate b0-d0-r0"):
        with_paired(runs)


def test_the_committed_table_follows_from_the_committed_records(repository, tmp_path):
    script = repository / "paper_figures" / "table_controls.py"
    done = subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("table_controls.csv", "table_controls_runs.csv", "table_controls.md"):
        assert (tmp_path / name).read_bytes() == (script.parent / name).read_bytes()


def test_no_records(tmp_path):
    with pytest.raises(UserError, match="no run records"):
        load(tmp_path)


def test_the_paper_s_curves(repository):
    table = paper_curves()
    first = table[(table["series"] == "label_accuracy") & (table["step"] == 1)]["value"]
    assert first.item() == 0.375  # the paper's "37 %" at the first step
    assert set(table["source"]) == {"paper"}


def test_analysis_imports_no_torch():
    code = (
        "import sys, analysis, analysis.curves, analysis.claims, analysis.null_study, ttrl_repro.votes, "
        "ttrl_repro.records; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_committed_figure_follows_from_the_committed_records(repository, tmp_path):
    script = repository / "paper_figures" / "fig09_fig12_label_accuracy.py"
    done = subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name = "fig09_fig12_label_accuracy.csv"
    assert (tmp_path / name).read_bytes() == (script.parent / name).read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {".pdf", ".png", ".csv"}
    assert not pd.read_csv(tmp_path / name).empty
