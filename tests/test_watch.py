import re
import subprocess
import sys
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrl_repro import checkpoints, metrics
from ttrl_repro.config import Watch, load_experiment
from ttrl_repro.errors import UserError
from ttrl_repro.records import Record, read_jsonl
from ttrl_repro.report import watch_lines
from ttrl_repro.rewards import Rollouts
from ttrl_repro.votes import vote
from ttrl_repro.watch import WATCHED, Alarm, alarms, checkpoint, last_clear_step

SETTINGS = Watch(reference_steps=2, patience=2)
CALM = {
    "top_answer_share": 0.1,
    "majority_ratio": 0.4,
    "distinct_answers": 12.0,
    "entropy": 0.3,
    "mean_tokens": 30.0,
    "label_accuracy": 0.5,
    "reward_accuracy": 0.8,
    "advantage_accuracy": 0.7,
    "ground_truth_ratio": 0.4,
    "pass@16": 0.9,
}


def rows(**changed):
    """Six steps, calm but for the given metrics."""
    return [{"step": t + 1, **CALM, **{name: values[t] for name, values in changed.items()}} for t in range(6)]


def shares(answers):
    return metrics.top_answer_share([vote(each) for each in answers])


def test_top_answer_share_by_hand():
    # "1" has 2/4 of the first question, 1/2 of the second and nothing of the third: (1/2 + 1/2 + 0) / 3.
    assert shares([["1", "1", "2", None], ["1", "3"], ["4", "5"]]) == pytest.approx(1 / 3)
    assert shares([["0"] * 4, ["0"] * 4]) == 1  # the hack
    assert shares([["1"] * 4, ["2"] * 4]) == 0.5  # each sure of its own answer: 1 / Q
    assert shares([["1", None], [None, None]]) == 0.25  # abstentions are samples without an answer
    assert shares([[None]]) == 0
    assert shares([["1/2", "7"], ["0.5", "8"]]) == 0.5  # one answer, written in two ways


def test_distinct_answers_by_hand():
    answers = [["1", "1", "2", None], ["0.5", "1/2", "3", "4"]]
    given = Rollouts(["p", "q"], [vote(a).keys for a in answers], [vote(a) for a in answers], None, 0)
    free = metrics.label_free(given, given.sampled_QN.astype(float))
    assert free["distinct_answers"] == (2 + 3) / 2
    assert free["top_answer_share"] == 0.25


SAMPLES = st.lists(st.sampled_from(["1", "2", "3", "4", None]), min_size=1, max_size=6)
ANSWERS = st.lists(SAMPLES, min_size=1, max_size=6)


@given(ANSWERS, st.randoms(use_true_random=False))
def test_the_order_of_questions_and_samples_changes_nothing(answers, random):
    before = shares(answers)
    moved = [random.sample(each, len(each)) for each in random.sample(answers, len(answers))]
    assert shares(moved) == before
    assert 0 <= before <= 1


@given(ANSWERS)
def test_top_answer_share_lies_between_the_surest_question_s_part_and_the_majority_ratio(answers):
    ratios = [vote(each).majority_ratio for each in answers]
    assert max(ratios) / len(answers) - 1e-12 <= shares(answers) <= sum(ratios) / len(answers) + 1e-12


def test_a_calm_run_raises_no_alarm():
    assert alarms(rows(), Watch()) == []
    assert checkpoint(rows(), [0, 2, 4, 6], Watch()).step == 6
    assert alarms([], Watch()) == []
    assert checkpoint([], [0], Watch()).step == 0


# What is seen: the metrics of six steps, the step of the alarm, and its words.
SEEN = {
    "one answer": (
        {"top_answer_share": [0.08, 0.1, 0.2, 0.36, 0.61, 0.9]},
        Alarm(5, 4, "top_answer_share", "the most common answer covers 61% of all samples, 9% in steps 1 to 2"),
    ),
    "unanimous": (
        {"majority_ratio": [0.4, 0.5, 0.9, 0.96, 0.97, 1.0], "distinct_answers": [12.0, 10.0, 4.0, 2.5, 2.0, 1.0]},
        Alarm(
            5,
            4,
            "majority_ratio",
            "97% of a question's samples agree with its vote, 45% in steps 1 to 2, "
            "and 2.0 distinct answers are left of 11.0",
        ),
    ),
    "low entropy": (
        {"entropy": [0.3, 0.3, 0.02, 0.02, 0.3, 0.3]},
        Alarm(4, 3, "entropy", "the entropy of a token is 0.02 nats, 0.3 in steps 1 to 2"),
    ),
    "short": (
        {"mean_tokens": [30.0, 30.0, 30.0, 14.0, 14.0, 14.0]},
        Alarm(5, 4, "mean_tokens", "a sample has 14 tokens on average, 30 in steps 1 to 2"),
    ),
    "long": (
        {"mean_tokens": [30.0, 30.0, 30.0, 30.0, 61.0, 62.0]},
        Alarm(6, 5, "mean_tokens", "a sample has 62 tokens on average, 30 in steps 1 to 2"),
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_every_sign_raises_its_alarm_with_a_reason(name):
    changed, expected = SEEN[name]
    assert alarms(rows(**changed), SETTINGS) == [expected]


@pytest.mark.parametrize(
    "changed",
    [
        {"top_answer_share": [0.4, 0.5, 0.5, 0.6, 0.6, 0.6]},  # the true answers coincide from the start
        {"top_answer_share": [0.1, 0.1, 0.9, 0.1, 0.9, 0.1]},  # never twice in a row
        {"majority_ratio": [0.97] * 6, "distinct_answers": [1.5] * 6},  # easy from the start
        {"majority_ratio": [0.4, 0.4, 0.9, 0.9, 0.9, 0.9], "distinct_answers": [12.0, 12.0, 2.0, 2.0, 2.0, 2.0]},
        {"entropy": [0.3, 0.3, 0.1, 0.05, 0.05, 0.05]},  # sharpening
        {"entropy": [0.0] * 6},  # nothing to fall
    ],
)
def test_what_is_no_sign(changed):
    assert alarms(rows(**changed), SETTINGS) == []


def test_the_first_steps_are_averaged_and_raise_nothing():
    changed = {"top_answer_share": [0.0, 0.6, 0.5, 0.5, 0.5, 0.5]}  # 0.5 is no rise over the mean, 0.3
    assert alarms(rows(**changed), SETTINGS) == []
    (alarm,) = alarms(rows(**changed), Watch(reference_steps=1, patience=1))
    assert (alarm.step, alarm.reason) == (2, "the most common answer covers 60% of all samples, 0% at step 1")


def test_alarms_come_in_order_and_stay_when_more_steps_follow():
    both = rows(**SEEN["one answer"][0], entropy=[0.3, 0.3, 0.02, 0.02, 0.02, 0.02])
    assert [(alarm.step, alarm.sign) for alarm in alarms(both, SETTINGS)] == [(4, "entropy"), (5, "top_answer_share")]
    for n in range(7):
        assert alarms(both[:n], SETTINGS) == [alarm for alarm in alarms(both, SETTINGS) if alarm.step <= n]


def test_the_rule_picks_the_last_evaluation_before_the_first_alarm():
    collapsing = rows(**SEEN["one answer"][0])  # its alarm comes at step 5; the sign shows from step 4 on
    assert checkpoint(collapsing, [0, 2, 4, 6], SETTINGS).step == 2
    assert checkpoint(collapsing, [6, 1, 0], SETTINGS).step == 1
    # Step 4 samples from the weights after 3 steps, so these show the sign already.
    assert checkpoint(collapsing, [0, 3, 6], SETTINGS).step == 0
    with pytest.raises(ValueError, match="no step was evaluated before"):
        checkpoint(collapsing, [3, 6], SETTINGS)


def test_the_last_clear_step():
    assert last_clear_step([], SETTINGS) == 0
    assert last_clear_step(rows(), SETTINGS) == 6
    assert last_clear_step(rows(**SEEN["one answer"][0]), SETTINGS) == 3
    broken = {"entropy": [0.3, 0.3, 0.02, 0.3, 0.3, 0.02]}  # shows at steps 3 and 6
    assert last_clear_step(rows(**broken)[:3], SETTINGS) == 2
    assert last_clear_step(rows(**broken), SETTINGS) == 5


def test_collapse_cannot_win_the_rule_by_its_majority_ratio():
    """Answering the same everywhere has the highest majority ratio of all: the rule must not follow it."""
    ratio = [0.4, 0.4, 0.5, 0.9, 1.0, 1.0]
    collapsing = rows(majority_ratio=ratio, top_answer_share=ratio, distinct_answers=[12.0, 12.0, 9.0, 3.0, 1.0, 1.0])
    best = max(collapsing, key=lambda row: row["majority_ratio"])["step"]
    assert (best, checkpoint(collapsing, range(7), SETTINGS).step) == (5, 2)


def label_based(repository):
    """Names of the metrics that docs/metrics.md marks as needing true labels, as patterns."""
    table = (repository / "docs" / "metrics.md").read_text().partition("## From `eval/`")[0]
    lines = [line for line in table.splitlines() if line.startswith("| `") and line.endswith("| yes |")]
    names = [name for line in lines for name in re.findall(r"`([^`]+)`", line.split("|")[1])]
    assert {"label_accuracy", "pass@N"} <= set(names)
    return [re.escape(name).replace("@N", r"@\d+") for name in names]


def test_no_alarm_reads_a_metric_that_needs_true_labels(repository):
    patterns = label_based(repository)
    for changed, _ in SEEN.values():
        given = rows(**changed)
        without = [
            {name: value for name, value in row.items() if not any(re.fullmatch(p, name) for p in patterns)}
            for row in given
        ]
        assert set(without[0]) == {"step", *WATCHED}
        assert alarms(without, SETTINGS) == alarms(given, SETTINGS) != []


def test_records_made_before_a_metric_raise_no_alarm_by_it(repository):
    folder = repository / "paper_figures" / "data" / "rewards" / "reward-majority" / "r0"
    experiment, given = Record.reopen(folder).experiment(), read_jsonl(folder / "metrics.jsonl")
    assert "top_answer_share" not in given[0]
    assert alarms(given, experiment.watch) == []
    with_it = [{**row, "distinct_answers": 1.0, "top_answer_share": 0.1} for row in given[:3]] + given[3:]
    assert alarms(with_it, experiment.watch) == []


def test_the_watch_imports_no_torch():
    code = "import sys, ttrl_repro.watch, analysis.accounting; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("watch.patience=0", r"watch.patience: .*greater than or equal to 1 \(given: 0\)"),
        ("watch.tokens_rise=0.5", r"watch.tokens_rise: .*greater than 1 \(given: 0.5\)"),
        ("watch.early=true", "watch.early: unknown field; known here: stop, reference_steps, patience"),
        ("train.steps=5", "watch.stop has no effect: an alarm cannot come before step 5 .* and train.steps is 5"),
    ],
)
def test_a_watch_that_makes_no_sense_is_refused(tmp_path, override, message):
    path = tmp_path / "x.yaml"
    path.write_text("{name: x, task: mini-30, model: mini-xs, watch: {stop: true}}")
    assert load_experiment(path, ["train.steps=6"]).watch.stop
    with pytest.raises(UserError, match=message):
        load_experiment(path, [override])


def test_the_watch_is_part_of_the_cell_only_where_it_may_stop_the_run(experiment):
    def digest(**settings):
        return experiment.model_copy(update={"watch": Watch(**settings)}).cell_hash()

    assert digest(patience=2) == digest(patience=3) == experiment.cell_hash()
    assert len({digest(), digest(stop=True), digest(stop=True, patience=3)}) == 3


def evaluation(step, keys):
    return [
        {
            "step": step, "task": "t", "split": "train", "temperature": 0.6, "question_id": "q", "sample": n,
            "key": key, "gold_key": "1",
        }
        for n, key in enumerate(keys)
    ]  # fmt: skip


def test_show_names_the_rule_s_checkpoint_beside_the_last(tmp_path, experiment):
    watched = experiment.model_copy(update={"watch": SETTINGS})  # k is 2
    answers = [*evaluation(0, "21"), *evaluation(2, "11"), *evaluation(6, "22")]
    checkpoints.kept_weights(tmp_path / "checkpoints", 2).mkdir(parents=True)
    assert watch_lines(tmp_path, watched, rows(**SEEN["one answer"][0]), answers) == [
        "alarm, step 5: the most common answer covers 61% of all samples, 9% in steps 1 to 2",
        "label-free checkpoint rule: step 2, the last evaluated before the alarm's sign first showed (step 4)",
        r"  t train: avg@2 1.000 \[1.000, 1.000]a at step 2 against 0.000 \[0.000, 0.000]a at step 6",
        f"  weights: {tmp_path / 'checkpoints' / 'label-free-step-2'}",
    ]
    assert watch_lines(tmp_path, watched, rows(), answers) == [
        "label-free checkpoint rule: step 6, the last evaluated (no alarm)"
    ]
    unlabelled = [{**row, "gold_key": None} for row in answers if row["step"] == 0]
    assert watch_lines(tmp_path, watched, rows(**SEEN["one answer"][0]), unlabelled)[1:] == [
        "label-free checkpoint rule: step 0, the base, the last evaluated before the alarm's sign first showed (step 4)"
    ]
    old = [{name: value for name, value in row.items() if name != "entropy"} for row in rows()]
    assert watch_lines(tmp_path, watched, old, answers)[-1].endswith("(no alarm; this record has no entropy)")


def test_weights_are_kept_beside_the_checkpoints(tmp_path):
    def save(folder):
        folder.mkdir()
        (folder / "model.safetensors").write_text("weights")

    def kept():
        return sorted(path.name for path in tmp_path.iterdir())

    (tmp_path / "checkpoint-2").mkdir()
    checkpoints.keep_weights(tmp_path, 3, save)
    assert kept() == ["checkpoint-2", "label-free-step-3"]
    (tmp_path / ".label-free-step-10.partial").mkdir()  # what a kill leaves
    checkpoints.keep_weights(tmp_path, 10, save)
    checkpoints.keep_weights(tmp_path, 10, save)  # again, after a resume
    assert kept() == ["checkpoint-2", "label-free-step-10", "label-free-step-3"]
    assert checkpoints.kept_steps(tmp_path) == [3, 10]
    assert checkpoints.newest(tmp_path) is None  # it is nothing to resume from
    checkpoints.drop_weights(tmp_path, lambda step: step < 10)
    assert kept() == ["checkpoint-2", "label-free-step-10"]
    checkpoints.drop_weights(tmp_path)
    assert kept() == ["checkpoint-2"]


def test_rewind_drops_later_alarms(tmp_path, experiment):
    record = Record.create(tmp_path / "run", experiment, {"model": {}, "task": {}})
    record.manifest["alarms"] = [asdict(Alarm(step, 1, "entropy", "low")) for step in (2, 3)]
    record.rewind(2)
    assert [alarm["step"] for alarm in Record.reopen(record.folder).manifest["alarms"]] == [2]
    record.rewind(-1)
    assert Record.reopen(record.folder).manifest["alarms"] == []
