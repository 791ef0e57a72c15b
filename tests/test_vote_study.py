import json
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.votes import (
    adaptive_table,
    codes_of,
    markdown,
    most_votes,
    numbers,
    read_answers,
    read_study,
    study,
    vote_curves,
    vote_sizes,
    write_study,
)
from ttrl_repro.answers import canonical
from ttrl_repro.cli import app
from ttrl_repro.errors import UserError
from ttrl_repro.stats import avg_at_k, maj_at_k, majority_ratio


@pytest.fixture
def write(tmp_path):
    """A writer of answer files: rows (or a text as it is) into NAME.jsonl."""

    def write_file(rows, name="mine"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write_file


def line(identifier="a", **fields):
    return {"id": identifier, "answers": ["1", None], **fields}


def test_the_numbers_by_hand(write):
    rows = [
        {"id": "a", "gold": "25", "answers": ["025", "25", "7", None], "correct": [True, True, False, False]},
        {"id": 2, "gold": "1", "answers": ["2", "2", "2", "1"], "correct": [False, False, True, True]},
    ]
    found = numbers(vote_curves(read_answers(write(rows))))
    assert found["mine", "avg", None].value == (0.5 + 0.25) / 2
    assert found["mine", "label accuracy", 1].value == pytest.approx((0.5 + 0.25) / 2)
    # Pairs of question a: {25 25}, {25 blank} twice are right; {25 7} twice are ties; {7 blank} is wrong.
    # Of question 2: {2 1} three times is a tie, {2 2} three times is wrong.
    assert found["mine", "label accuracy", 2].value == pytest.approx(((3 + 2 / 2) / 6 + (3 / 2) / 6) / 2)
    assert found["mine", "tie rate", 2].value == pytest.approx((2 / 6 + 3 / 6) / 2)
    assert found["mine", "pass", 2].value == pytest.approx((5 / 6 + 3 / 6) / 2)
    assert found["mine", "label accuracy", 4].value == pytest.approx((1 + 0) / 2)
    assert found["mine", "majority ratio", 4].value == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert found["mine", "gain", 4].value == pytest.approx((0.5 - 0.25) / 2)
    assert found["mine", "gain where helped", 4].value == pytest.approx(0.5 / 2)
    assert found["mine", "loss where hurt", 4].value == pytest.approx(0.25 / 2)
    assert (found["mine", "helped", 4].value, found["mine", "hurt", 4].value) == (0.5, 0.5)
    assert found["mine", "confidently wrong", None].value == 0.5
    assert found["mine", "abstention rate", None].value == 1 / 8
    assert found["mine", "classes", None].value == 2
    assert found["mine", "agreement", None].value == 7 / 8  # the third verdict of question 2 is not ours
    assert {estimate.population for estimate in found.values()} == {"questions"}


def test_without_true_labels_only_label_free_numbers(write):
    answers = ["1"] * 12 + ["2", None, "3", "2"]
    curves, adaptive = study([write([{"id": i, "answers": answers} for i in range(2)])], chunk=4, orders=20, seed=0)
    assert set(curves["measure"]) == {"majority ratio", "tie rate", "abstention rate", "classes"}
    assert set(adaptive["measure"]) == {"samples", "saved", "disagreement"}
    labelled, _ = study(
        [write([{"id": i, "answers": answers, "gold": "9"} for i in range(2)])], chunk=4, orders=20, seed=0
    )
    shared = labelled[labelled["measure"].isin(set(curves["measure"]))].reset_index(drop=True)
    pd.testing.assert_frame_equal(shared, curves)


def test_unequal_numbers_of_samples(write):
    rows = [line("a", answers=["1", "1", "2"], gold="1"), line("b", answers=["1"] * 5, gold="1")]
    file = read_answers(write(rows))
    assert file.samples == 3
    found = numbers(vote_curves(file))
    assert max(k for _, _, k in found if k is not None) == 3
    assert found["mine", "avg", None].value == pytest.approx((2 / 3 + 1) / 2)  # of all samples of each


def test_sizes_of_votes():
    assert vote_sizes(10) == [1, 2, 4, 8, 10]
    assert vote_sizes(64) == [1, 2, 4, 8, 16, 32, 64]
    assert [most_votes(samples) for samples in (1, 10, 64, 160)] == [1, 8, 64, 64]


def saved(table, rule, chunk=8):
    rows = table[(table["rule"] == rule) & (table["chunk"] == chunk)].set_index("measure")["value"]
    return rows["saved"], rows["disagreement"]


def test_what_is_saved_where_all_samples_agree(write):
    file = read_answers(write([line("a", answers=["1"] * 64, gold="1"), line("b", answers=["2"] * 64, gold="1")]))
    table = adaptive_table(file, chunk=8, orders=5, seed=0)
    assert saved(table, "curtailment") == (1 / 2, 0)  # 32 of 64 can at most be drawn level with
    assert saved(table, "error <= 0.01") == (1 - 16 / 64, 0)
    assert saved(table, "error <= 0.05") == (1 - 8 / 64, 0)
    assert saved(table, "beta") == (1 - 8 / 64, 0)
    assert saved(table, "beta", 1) == (1 - 4 / 64, 0)  # P(p1 > p2) after n equal votes is 1 - 2^-(n + 1): 4 reach .95
    assert set(table[table["measure"] == "accuracy change"]["value"]) == {0.0}


def test_what_is_lost_in_a_close_race(write):
    file = read_answers(write([line("a", answers=["1"] * 33 + ["2"] * 31, gold="1")]))
    table = adaptive_table(file, chunk=8, orders=1000, seed=0)
    assert saved(table, "curtailment")[1] == 0
    assert saved(table, "error <= 0.05")[1] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)
    lost = saved(table, "beta", 1)[1]
    assert lost > 0.05
    # Two answers: every disagreement turns a right label into a wrong one.
    rows = table[(table["rule"] == "beta") & (table["chunk"] == 1)].set_index("measure")["value"]
    assert rows["accuracy change"] == pytest.approx(-lost)
    pd.testing.assert_frame_equal(table, adaptive_table(file, chunk=8, orders=1000, seed=0))


def test_ties_of_the_full_vote_are_no_disagreement(write):
    file = read_answers(write([line("a", answers=["1"] * 32 + ["2"] * 32, gold="1")]))
    table = adaptive_table(file, chunk=8, orders=2000, seed=0)
    assert saved(table, "beta", 1)[1] == 0
    assert saved(table, "beta", 1)[0] > 0.1
    change = table[(table["measure"] == "accuracy change") & (table["rule"] == "beta") & (table["chunk"] == 1)]
    # Which of the tied answers leads early is a fair draw: 4 standard errors of at most half a label each.
    assert abs(change["value"].item()) < 4 * 0.5 / np.sqrt(2000)


def test_too_few_samples_to_look_early(write):
    file = read_answers(write([line("a", answers=["1"] * 8)]))
    assert adaptive_table(file, chunk=8, orders=5, seed=0).empty


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "has no questions"),
        ("{\n", "line 1: not valid JSON"),
        ("[]\n", "line 1: expected an object with fields 'id' and 'answers', found list"),
        ([{"answers": ["1"]}], "line 1: field 'id' must be a string or an integer"),
        ([line(), line()], "line 2: id 'a' was used before, on line 1"),
        ([{"id": 1}], "line 1: field 'answers' must be a list of strings, null where"),
        ([line(answers="25")], "field 'answers' must be a list of strings"),
        ([line(answers=["1", 2])], "field 'answers' must be a list of strings"),
        ([line(answers=[])], "field 'answers' must hold 1 to 1000 answers, not 0"),
        ([line(gold=25)], "field 'gold' must be a non-empty string"),
        ([line(gold=" ")], "field 'gold' must be a non-empty string"),
        ([line(gold="1"), line("b")], "line 2: field 'gold' is missing; give it on every line, or on none"),
        ([line(correct=[True])], "field 'correct' must be a list of 2 true or false"),
        ([line(correct=[1, 0])], "field 'correct' must be a list of 2 true or false"),
        ([line(), line("b", correct=[True, False])], "line 1: field 'correct' is missing"),
    ],
)
def test_bad_input_is_named(write, rows, message):
    path = write(rows)
    with pytest.raises(UserError) as caught:
        read_answers(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_files_that_cannot_be_read_or_told_apart(write, tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read_answers(tmp_path / "missing.jsonl")
    path = write([line()])
    with pytest.raises(UserError, match="another file is called 'mine' too"):
        study([path, path], chunk=8, orders=2, seed=0)
    with pytest.raises(UserError, match=r"no .*votes.csv; `ttrl votes FILE"):
        read_study(tmp_path)


def test_the_command_prints_and_writes(write, tmp_path):
    close = ["1"] * 9 + ["2"] * 6 + [None]
    files = [
        write([line(i, answers=close, gold="1", correct=[True] * 9 + [False] * 7) for i in range(3)], "labelled"),
        write([line(i, answers=close) for i in range(3)], "unlabelled"),
    ]
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["votes", *map(str, files), "--out", str(out), "--chunk", "4", "--orders", "20"], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "labelled   16   0.562   1.000 [1.000, 1.000]" in done.stdout
    assert "curtailment" in done.stdout
    assert {path.name for path in out.iterdir()} == {"votes.csv", "votes_adaptive.csv", "votes.pdf", "votes.png"}
    curves, adaptive = read_study(out)
    assert set(curves["file"]) == {"labelled", "unlabelled"}
    assert "| labelled | 3 x 16 | 16 | 0.562 | 1.000 [1.000, 1.000] |" in markdown(curves, adaptive)
    write_study(curves, adaptive, tmp_path / "again")
    for name in ("votes.csv", "votes_adaptive.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


def test_nothing_is_written_when_a_file_is_bad(write, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["votes", str(write([line(gold=1)])), "--out", str(out)])
    assert isinstance(done.exception, UserError)
    assert not out.exists()


def test_the_committed_figure_and_table_follow_from_the_committed_numbers(repository, tmp_path):
    script = repository / "paper_figures" / "votes_on_real_answers.py"
    done = subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("votes_on_real_answers.csv", "votes_on_real_answers.md"):
        assert (tmp_path / name).read_bytes() == (script.parent / name).read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {".pdf", ".png", ".csv", ".md"}


def test_votes_need_no_torch():
    code = "import sys, analysis.votes, ttrl_repro.adaptive, ttrl_repro.stats; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_label_accuracy_on_real_answers_by_monte_carlo(repository):
    path = repository.parent / "shared" / "data" / "votes" / "aime2024_Datarus-R1-14B-preview.jsonl"
    if not path.is_file():
        pytest.skip("the sampled answers of AIME 2024 are not beside this checkout")
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    found = numbers(vote_curves(read_answers(path)))
    # Independent of `stats`: draw k of the 80 answers, count, split ties, forget blanks.
    draw = random.Random(0)
    for k, expected in ((1, 0.516), (16, 0.719), (64, 0.736)):
        shares = []
        for _ in range(400):
            right = 0.0
            for row in rows:
                counts = Counter(canonical(answer) for answer in draw.sample(row["answers"], k) if answer is not None)
                top = max(counts.values(), default=0)
                tied = [key for key, count in counts.items() if count == top]
                right += (canonical(row["gold"]) in tied) / max(len(tied), 1)
            shares.append(right / len(rows))
        error = np.std(shares) / np.sqrt(len(shares))
        assert found[path.stem, "label accuracy", k].value == pytest.approx(np.mean(shares), abs=4 * error)
        assert found[path.stem, "label accuracy", k].value == pytest.approx(expected, abs=5e-4)


def test_gold_has_no_part_in_which_answers_vote_together():
    answers = ["0.3333"] * 20 + ["0.33333"] * 20 + ["1/2"] * 24
    blind, seeing = codes_of(answers, None), codes_of(answers, "1/3")
    assert len(set(blind)) == len(set(seeing)) == 3  # 1/3 would join the two roundings, but nobody answered it
    assert majority_ratio(blind[None]) == majority_ratio(seeing[None]) == 24 / 64
    assert maj_at_k(seeing[None]) == 0.0
    assert 0 < avg_at_k(seeing[None]) < 1  # one of the two is right
