import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import load
from analysis.accounting import (
    KINDS,
    by_first_ratio,
    label_changes,
    pass_rate_bin,
    print_accounting,
    ratio_bin,
    transition_counts,
    transitions,
)
from ttrl_repro import records
from ttrl_repro.errors import UserError
from ttrl_repro.records import Record, write_rows

# Three questions, gold "1". Greedy answers and four samples (T=0.6; k is 2) of the base, then after step 2.
GREEDY = {"a": ("2", "1"), "b": ("1", "2"), "c": ("1", "1")}
SAMPLED = {
    "a": (["2", "3", "2", "2"], ["1", "1", "2", "2"]),  # pass rate 0; maj@2: a tie without gold, then right
    "b": (["1", "1", None, "1"], ["1", "2", "1", "1"]),  # .75; right, then a tie with gold
    "c": (["1", "1", "1", "1"], ["1", None, "1", "1"]),  # 1; right, and right: a blank does not vote
}
# Votes of steps 1 to 3 (b is not in step 2): label key, whether it is right, top count of 4.
VOTES = {
    "a": [(1, "2", False, 3), (2, "3", False, 2), (3, "1", True, 2)],
    "b": [(1, "1", True, 2), (3, "2", False, 2)],
    "c": [(1, "1", True, 4), (2, "1.0", True, 4), (3, "1.0", True, 4)],  # two ways of writing the right answer
}


@pytest.fixture
def folder(tmp_path, experiment):
    """One run with known numbers, made by the record's own writer."""
    record = Record.create(
        tmp_path / "study" / "r0", experiment, {"task": {"name": "t", "fingerprint": "f"}, "model": {}}
    )
    for index, step in enumerate((0, 2)):
        rows = []
        for question in GREEDY:
            rows.append(answer(step, question, 0, GREEDY[question][index], 0.0))
            rows += [answer(step, question, n, key, 0.6) for n, key in enumerate(SAMPLED[question][index])]
        record.write_eval(step, rows)
    for step in (1, 2, 3):
        votes = [(question, vote) for question in VOTES for vote in VOTES[question] if vote[0] == step]
        record.write_votes(step, [ballot(question, *vote) for question, vote in votes])
        record.append("metrics.jsonl", {"step": step, "majority_ratio": 0.5})
    record.manifest["steps_done"] = 3
    record.close("finished")
    return record.folder


def answer(step, question, sample, key, temperature):
    return {
        "step": step, "task": "t", "split": "train", "temperature": temperature, "top_p": 0.95,
        "protocol": "sampled" if temperature else "greedy", "question_id": question, "sample": sample,
        "answer": key, "key": key, "gold_key": "1", "tokens": 3, "finished": True,
    }  # fmt: skip


def ballot(question, step, key, right, top):
    return {
        "step": step, "question_id": question, "label": key, "label_key": key, "top_count": top, "second_count": 0,
        "gold_count": 0, "label_correct": right, "n": 4, "classes": 1, "tied": 1, "abstained": 0,
    }  # fmt: skip


def test_transitions_by_hand(folder):
    table = transitions(load(folder))
    assert set(table["step"]) == {2}
    found = {(row.measure, row.base_pass_rate): [row.questions, *(getattr(row, kind) for kind in KINDS)]
             for row in table.itertuples()}  # fmt: skip
    assert found == {
        ("greedy", "0"): [1, 0, 1, 0, 0],
        ("greedy", ".5 to .75"): [1, 0, 0, 1, 0],
        ("greedy", "1"): [1, 0, 0, 0, 1],
        ("maj@2", "0"): [1, 0, 1, 0, 0],
        ("maj@2", ".5 to .75"): [1, 0, 0, 0.5, 0.5],  # the tie is a fair draw
        ("maj@2", "1"): [1, 0, 0, 0, 1],
    }


def test_bins():
    rates = [0, 0.01, 0.25, 0.26, 0.5, 0.75, 0.99, 1]
    assert [pass_rate_bin(rate) for rate in rates] == [
        "0", "0 to .25", "0 to .25", ".25 to .5", ".25 to .5", ".5 to .75", ".75 to 1", "1",
    ]  # fmt: skip
    assert [ratio_bin(ratio) for ratio in (0, 0.25, 0.3, 1)] == ["0 to .25", "0 to .25", ".25 to .5", ".75 to 1"]


CHANCES = st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0])] * 2), min_size=1, max_size=8)


@given(CHANCES)
def test_counts_add_up_and_their_difference_is_the_gain(pairs):
    before, after = np.array(pairs).T
    counts = transition_counts(before, after)
    assert counts.sum(axis=1) == pytest.approx(np.ones(len(pairs)))
    assert (counts >= 0).all()
    assert counts[:, 1] - counts[:, 2] == pytest.approx(after - before)
    assert transition_counts(after, before)[:, 1] == pytest.approx(counts[:, 2])


def test_label_changes_by_hand(folder):
    table = label_changes(load(folder)).set_index("question_id")
    columns = ["visits", "changes", "wrong_to_right", "right_to_wrong", "first_ratio", "label_first", "label_last"]
    assert table.loc["a", columns].tolist() == [3, 2, 1, 0, 0.75, 0, 1]
    assert table.loc["b", columns].tolist() == [2, 1, 0, 1, 0.5, 1, 0]
    assert table.loc["c", columns].tolist() == [3, 0, 0, 0, 1, 1, 1]


def test_labels_that_were_none_and_stay_so_do_not_change(folder):
    path = folder / "votes.parquet"
    nobody = {"label": None, "label_key": None, "top_count": 0}  # every sample abstained
    rows = [{**row, **nobody, "label_correct": False} for row in pq.read_table(path).to_pylist()]
    write_rows(path, [*rows[:-1], {**rows[-1], "label_key": "2"}], records.VOTES)
    assert label_changes(load(folder))["changes"].tolist() == [0, 0, 1]


def test_without_true_labels_changes_are_counted_and_nothing_else(folder, capsys):
    path = folder / "votes.parquet"
    rows = [{**row, "label_correct": None, "gold_count": None} for row in pq.read_table(path).to_pylist()]
    write_rows(path, rows, records.VOTES)
    for part in (folder / "eval").iterdir():
        write_rows(part, [{**row, "gold_key": None} for row in pq.read_table(part).to_pylist()], records.EVAL)
    study = load(folder)
    assert transitions(study).empty
    changes = label_changes(study)
    assert changes["changes"].tolist() == [2, 1, 1]  # nobody knows that 1 and 1.0 are both right
    assert changes[["wrong_to_right", "right_to_wrong", "label_first", "label_last"]].isna().all(axis=None)
    print_accounting(folder)
    assert "labels changed 4 times in 5 chances (a question's next vote)\n" in capsys.readouterr().out


def test_by_first_ratio_by_hand(folder):
    table = by_first_ratio(load(folder)).set_index("first_ratio")
    assert list(table.index) == [".25 to .5", ".5 to .75", ".75 to 1"]
    columns = ["questions", "changes", "label_first", "label_last", "avg_first", "avg_last"]
    assert table.loc[".5 to .75", columns].tolist() == [1, 2, 0, 1, 0, 1]  # a; avg of the first two samples
    assert table.loc[".25 to .5", columns].tolist() == [1, 1, 1, 0, 1, 0.5]  # b
    assert table.loc[".75 to 1", columns].tolist() == [1, 0, 1, 1, 1, 0.5]  # c


def test_the_order_of_rows_changes_nothing(folder):
    before = load(folder)
    expected = transitions(before)
    for path in (folder / "eval").iterdir():
        table = pq.read_table(path)
        pq.write_table(table.take(list(range(len(table)))[::-1]), path)
    assert transitions(load(folder)).equals(expected)


def replicate(folder):
    """The same run again, as another replicate of its cell; the folder of both."""
    twin = folder.parent / "r1"
    shutil.copytree(folder, twin)
    manifest = json.loads((twin / "manifest.json").read_text())
    manifest["seeds"]["rl"] = 1
    (twin / "manifest.json").write_text(json.dumps(manifest))
    (twin / "config.yaml").write_text((twin / "config.yaml").read_text().replace("rl: 0", "rl: 1"))
    return folder.parent


def test_replicates_are_summed(folder, capsys):
    print_accounting(folder)
    one = capsys.readouterr().out
    assert "labels changed 3 times in 5 chances" in one
    assert "1 wrong to right, 1 right to wrong" in one
    print_accounting(replicate(folder))
    two = capsys.readouterr().out
    assert "2 runs, counts summed over them" in two
    assert "labels changed 6 times in 10 chances" in two


def test_runs_of_two_cells_are_refused(folder, experiment):
    other = experiment.model_copy(update={"model": "mini-s"})
    Record.create(folder.parent / "r1", other, {"task": {"name": "t", "fingerprint": "f"}, "model": {}}).close(
        "interrupted"
    )
    with pytest.raises(UserError, match=r"study: runs of 2 cells \(.*\); give a folder with those of one"):
        print_accounting(folder.parent)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="no votes in these records"):
        print_accounting(folder.parent)


def test_a_committed_record_adds_up(repository):
    study = load(repository / "paper_figures" / "data" / "demo" / "r0")
    table = transitions(study)
    sizes = {("mini-30", "train"): 30, ("mini-30", "fresh"): 30, ("mini-83", "train"): 83}
    groups = table.groupby(["task", "split", "step", "measure"])
    assert len(groups) == 3 * 8 * 2  # tasks, evaluations after the base, measures
    for where, group in groups:
        assert group["questions"].sum() == sizes[where[:2]]
        assert group[list(KINDS)].to_numpy().sum() == pytest.approx(sizes[where[:2]])
    last = table[(table["split"] == "train") & (table["task"] == "mini-30") & (table["step"] == 40)]
    greedy = last[last["measure"] == "greedy"][list(KINDS)].sum()
    # `ttrl show`: greedy .533 before and .833 after, of 30.
    assert greedy["right_to_wrong"] + greedy["stayed_right"] == 16
    assert greedy["wrong_to_right"] + greedy["stayed_right"] == 25
    changes = label_changes(study)
    assert changes["visits"].tolist() == [40] * 30
    # Label accuracy rises from .700 to .833: four labels more turned right than wrong.
    assert (changes["label_first"].sum(), changes["label_last"].sum()) == (21, 25)
    assert changes["wrong_to_right"].sum() - changes["right_to_wrong"].sum() == 4
    strata = by_first_ratio(study)
    assert strata["questions"].sum() == 30
    assert (strata["questions"] * strata["label_first"]).sum() == pytest.approx(21)


def test_the_command(repository):
    command = [sys.executable, "-m", "ttrl_repro.cli", "questions", "paper_figures/data/demo"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    assert done.returncode == 0, done.stderr
    assert "3 runs, counts summed over them" in done.stdout
    assert "labels changed" in done.stdout
