import dataclasses

import pytest

from ttrl_repro.report import reading
from ttrl_repro.stats import Estimate
from ttrl_repro.summary import codes_by_protocol, headline, main_table, mean_majority_ratio


def rows(step, temperature, keys, question="q", gold="1", task="t", split="train"):
    return [
        {
            "step": step, "task": task, "split": split, "protocol": "sampled" if temperature else "greedy",
            "temperature": temperature, "question_id": question, "sample": n, "key": key, "gold_key": gold,
        }
        for n, key in enumerate(keys)
    ]  # fmt: skip


# At T=0.3 the base's average is best, at T=0.6 its vote.
RUN = [
    *rows(0, 0.0, ["2"]),
    *rows(0, 0.3, ["1", "1", "2", "2", "2"]),
    *rows(0, 0.6000000238, ["1", "2", "1", "1", None]),  # as parquet gives 0.6 back
    *rows(5, 0.0, ["1"]),
    *rows(5, 0.6000000238, ["1", "1", "1", "2", "1"]),
]


def test_main_table():
    (line,) = main_table(RUN, "t", last_step=5, temperature=0.6, k=2)
    assert (line.task, line.split, line.questions) == ("t", "train", 1)
    assert line.base_greedy.value == 0
    assert line.base_avg.value == 0.5  # k = 2: the first two samples
    assert (line.base_best_avg.value, line.best_avg_temperature) == (1.0, 0.3)
    assert line.base_maj.value == 1.0  # all five samples; the abstention does not vote
    assert (line.base_best_maj.value, line.best_maj_temperature) == (1.0, 0.6)
    assert line.final_greedy.population is None  # trained on these very questions
    (other,) = main_table(RUN, "another", last_step=5, temperature=0.6, k=2)
    assert other.final_greedy.population == "questions"
    assert line.final_samples == 5
    assert (line.final_greedy.value, line.final_avg.value, line.final_maj.value) == (1.0, 1.0, 1.0)


def test_a_run_without_its_last_evaluation_has_no_table():
    assert main_table(RUN, "t", last_step=4, temperature=0.6, k=2) == []
    assert main_table([], "t", last_step=5, temperature=0.6, k=2) == []
    assert main_table(RUN, "t", last_step=0, temperature=0.6, k=2) == []  # the base is not the trained model


def test_unlabelled_rows_have_a_majority_ratio_and_nothing_else():
    unlabelled = [*rows(0, 0.6, ["1", "1", "2", None], gold=None), *rows(0, 0.6, ["3"] * 4, "p", gold=None)]
    assert codes_by_protocol(unlabelled) == {}
    assert mean_majority_ratio(unlabelled) == (0.5 + 1.0) / 2


def test_headline_names():
    assert headline(codes_by_protocol(RUN[:6]), k=2) == {
        "eval/t/train/greedy": 0.0,
        "eval/t/train/T=0.3/avg@2": 1.0,
        "eval/t/train/T=0.3/maj@5": 0.0,
    }


def estimate(low, high):
    return Estimate((low + high) / 2, low, high, "answers")


@pytest.mark.parametrize(
    ("final", "first_label", "expected"),
    [
        ((0.71, 0.8), None, "gain"),
        ((0.71, 0.8), 0.75, "sharpening: avg is above the base's at its best temperature"),  # the label's vote counts
        ((0.61, 0.72), None, "sharpening: avg is above the base's at its best temperature"),
        ((0.45, 0.72), None, "sharpening: avg is above the base's, not above"),
        ((0.2, 0.29), None, "loss"),
        ((0.35, 0.5), None, "no difference"),
    ],
)
def test_reading(final, first_label, expected):
    (line,) = main_table(RUN, "t", last_step=5, temperature=0.6, k=2)
    line = dataclasses.replace(
        line,
        base_avg=estimate(0.3, 0.4),
        base_best_avg=estimate(0.5, 0.6),
        base_best_maj=estimate(0.6, 0.7),
        final_avg=estimate(*final),
    )
    assert reading(line, first_label).startswith(expected)
