import pytest

from analysis.budget import Measured, Plan, Planned, measure, read_plan, table
from ttrl_repro.errors import UserError
from ttrl_repro.miniature.recipes import recipe_names
from ttrl_repro.records import Record
from ttrl_repro.tasks import task_names


def test_the_sum_of_planned_runs():
    plan = [Planned(what="claims", model="mini-s", task="mini-30", steps=40, runs=10)]
    measured = {("mini-s", "mini-30"): Measured(step=2.0, beside=10.0, runs=3)}
    *_, row, total = table(plan, measured).splitlines()
    # 90 seconds a run, ten runs, two at a time: 450 seconds.
    assert row == "| claims | mini-s | mini-30 | 10 | 40 | 90 | 0.12 |"
    assert total == "| all | | | 10 | | | 0.1 |"
    with pytest.raises(UserError, match="no measured run of mini-s on mini-30"):
        table(plan, {})


def test_times_are_medians_of_one_thread_runs(tmp_path, experiment):
    for run, (seconds, threads) in enumerate([(20.0, 1), (40.0, 1), (30.0, 1), (5.0, 2)]):
        seeds = experiment.seeds.model_copy(update={"rl": run})
        record = Record.create(
            tmp_path / "cell" / f"r{run}",
            experiment.model_copy(update={"seeds": seeds}),
            {"model": {"name": "mini-s"}, "task": {"name": "mini-30"}, "threads": threads},
        )
        record.manifest["steps_done"] = 10
        record.manifest["cost"]["seconds"] = seconds
        record.close("finished")
        record.manifest.update(created="2025-01-01T00:00:00+00:00", ended="2025-01-01T00:01:00+00:00")
        record.save_manifest()
    assert measure(tmp_path) == {("mini-s", "mini-30"): Measured(step=3.0, beside=30.0, runs=3)}
    with pytest.raises(UserError, match="no finished runs"):
        measure(tmp_path / "cell")


def test_the_study_s_plan_names_bases_and_tasks_that_there_are():
    plan = read_plan()
    assert isinstance(plan, Plan)
    assert {row.model for row in plan.runs} <= set(recipe_names())
    assert {row.task for row in plan.runs} <= set(task_names())


def test_a_bad_plan_is_refused(tmp_path):
    path = tmp_path / "budget.yaml"
    path.write_text("runs: [{what: x, model: m, task: t, steps: 0, runs: 1}]")
    with pytest.raises(UserError, match=r"runs\.0\.steps"):
        read_plan(path)
    with pytest.raises(UserError, match="cannot read"):
        read_plan(tmp_path / "none.yaml")
