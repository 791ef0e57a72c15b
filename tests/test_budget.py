from pathlib import Path

import pytest
import yaml

from analysis.budget import (
    SHIPPED,
    Kind,
    Measured,
    Plan,
    Planned,
    Pretrained,
    estimated,
    kinds_of,
    measure,
    pretrained,
    pretraining,
    read_plan,
    table,
)
from ttrl_repro.errors import UserError
from ttrl_repro.miniature.recipes import load_recipe, recipe_names
from ttrl_repro.records import Record
from ttrl_repro.sweeps.files import read_sweep
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


def test_what_was_not_measured_is_scaled_by_a_task_that_was():
    plan = [Planned(what="main", model="mini-m", task="mini-500", steps=10, runs=1)]
    measured = {
        ("mini-s", "mini-30"): Measured(step=2.0, beside=10.0, runs=3),
        ("mini-s", "mini-500"): Measured(step=6.0, beside=50.0, runs=3),
        ("mini-m", "mini-30"): Measured(step=8.0, beside=20.0, runs=1),
    }
    # Steps take four times as long on the larger model, everything beside them twice as long: 10 * 24 + 100.
    assert table(plan, measured).splitlines()[2] == "| main | mini-m | mini-500 | 1 | 10 | ~340 | 0.05 |"
    del measured["mini-s", "mini-30"]
    with pytest.raises(UserError, match="no measured run of mini-m on mini-500"):
        table(plan, measured)


def test_times_are_medians_of_one_thread_runs_that_were_never_resumed(tmp_path, experiment):
    for run, (seconds, threads, resumed) in enumerate(
        [(20.0, 1, []), (40.0, 1, []), (30.0, 1, []), (5.0, 2, []), (1.0, 1, ["2025-01-01T00:00:30+00:00"])]
    ):
        seeds = experiment.seeds.model_copy(update={"rl": run})
        record = Record.create(
            tmp_path / "cell" / f"r{run}",
            experiment.model_copy(update={"seeds": seeds}),
            {"model": {"name": "mini-s"}, "task": {"name": "mini-30", "questions": 30}, "threads": threads},
        )
        record.manifest["steps_done"] = 10
        record.manifest["cost"]["seconds"] = seconds
        record.close("finished")
        record.manifest.update(created="2025-01-01T00:00:00+00:00", ended="2025-01-01T00:01:00+00:00")
        if resumed:
            record.manifest["resumed"] = resumed
        record.save_manifest()
    # 3 seconds a step of 6 questions with 8 votes, a fortieth of 30 with 64.
    assert measure([tmp_path]) == {("mini-s", "mini-30"): Measured(step=120.0, beside=30.0, runs=3)}
    with pytest.raises(UserError, match="no finished runs"):
        measure([tmp_path / "none"])


BASE = Pretrained(
    name="mini-xs",
    architecture=load_recipe("mini-xs").architecture.model_dump(),
    tokens=10_000_000,
    seconds=300.0,
    threads=None,
)


def test_pretraining_takes_what_a_base_of_that_size_took():
    assert pretraining("mini-xs", [BASE]) == (300.0, 1)
    # 6 of 10 million tokens; one at a time, unless one thread is known to have been enough.
    assert pretraining("mini-xs-pi40", [BASE]) == (180.0, 1)
    one_thread = BASE.model_copy(update={"seconds": 400.0, "threads": 1})
    assert pretraining("mini-xs", [one_thread]) == (400.0, 2)
    assert pretraining("mini-xs", [one_thread, BASE, BASE.model_copy(update={"seconds": 900.0})]) == (400.0, 2)
    own = BASE.model_copy(update={"name": "mini-xs-pi40", "tokens": 6_000_000, "seconds": 200.0})
    assert pretraining("mini-xs-pi40", [BASE, own]) == (200.0, 1)
    with pytest.raises(UserError, match=r"no base of the size of mini-m was measured; .* --bases"):
        pretraining("mini-m", [BASE])
    plan = [Planned(what="bases", pretrain="mini-xs", runs=3)]
    assert table(plan, {}, [BASE]).splitlines()[2:] == [
        "| bases | mini-xs | pretraining | 3 |  | 300 | 0.25 |",
        "| all | | | 3 | | | 0.2 |",
    ]


def test_shipped_bases_say_what_they_took(tmp_path):
    found = pretrained([SHIPPED])
    assert {"mini-xs", "mini-s"} <= {base.name for base in found}
    assert all(base.seconds > 0 and base.tokens > 0 for base in found)
    (tmp_path / "mini-s-seed0").mkdir()
    (tmp_path / "mini-s-seed0" / "recipe.json").write_text('{"recipe": {"name": "mini-s"}}')
    with pytest.raises(UserError, match=r"recipe\.json: is not the recipe of a base"):
        pretrained([SHIPPED, tmp_path])


def test_an_experiment_file_says_model_task_and_steps(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("{name: e, model: mini-s, task: mini-83, train: {steps: 7}}")
    assert Planned(what="x", runs=1, experiment=path).cell() == ("mini-s", "mini-83", 7)
    other = Planned(what="x", runs=1, experiment=path, model="mini-xs", task="mini-30", steps=400)
    assert other.cell() == ("mini-xs", "mini-30", 400)
    with pytest.raises(UserError, match="cannot read the experiment"):
        Planned(what="x", runs=1, experiment=Path("experiments/none.yaml")).cell()


def test_steps_count_by_their_samples(tmp_path, monkeypatch):
    path = tmp_path / "e.yaml"
    path.write_text("{name: e, model: mini-s, task: mini-83, rollout: {votes: 32, trained: 8}, train: {steps: 8}}")
    assert Planned(what="x", runs=1, experiment=path).cell() == ("mini-s", "mini-83", 4.0)
    content = {
        "name": "s",
        "program": str(path),
        "method": "grid",
        "command": ["ttrl", "run", "${program}", "${args_no_hyphens}"],
        "parameters": {"rollout.votes": {"values": [16, 64]}, "task": {"values": ["mini-83", "level-long"]}},
    }
    sweep = tmp_path / "s.yaml"
    sweep.write_text(yaml.safe_dump(content))
    assert kinds_of(sweep) == [Kind("mini-s", "mini-83", 2, 5.0), Kind("mini-s", "level-long", 2, 5.0)]
    measured = {("mini-s", "mini-500"): Measured(step=10.0, beside=50.0, runs=1)}
    # A level of 100 questions: a fifth of the whole set's seconds.
    assert estimated("mini-s", "level-long", measured) == Measured(step=2.0, beside=10.0, runs=0)
    rows = table([Planned(what="x", sweep=sweep)], measured | {("mini-s", "mini-83"): measured["mini-s", "mini-500"]})
    assert rows.splitlines()[2:4] == [
        "| x | mini-s | mini-83 | 2 | 5 | 100 | 0.03 |",
        "| x | mini-s | level-long | 2 | 5 | ~20 | 0.01 |",
    ]
    sweep.write_text(
        yaml.safe_dump({**content, "method": "random", "run_cap": 3, "metric": {"name": "x", "goal": "minimize"}})
    )
    with pytest.raises(UserError, match="a search's cells are not known beforehand"):
        kinds_of(sweep)


def test_the_study_s_plan_names_bases_and_tasks_that_there_are():
    plan = read_plan()
    assert isinstance(plan, Plan)
    cells = [row.cell() for row in plan.runs if row.pretrain is None and row.sweep is None]
    assert {model for model, _, _ in cells} | {row.pretrain for row in plan.runs if row.pretrain} <= set(recipe_names())
    assert {task for _, task, _ in cells} <= set(task_names())


def test_the_study_s_plan_covers_its_experiments(repository):
    plan = read_plan()
    named = {str(row.experiment) for row in plan.runs}
    for folder in ("confirm", "laboratory"):
        files = sorted((repository / "experiments" / folder).glob("*.yaml"))
        assert {str(path.relative_to(repository)) for path in files} <= named
    sweeps = {path for path in (repository / "sweeps").glob("*.yaml") if read_sweep(path).method == "grid"}
    assert {str(path.relative_to(repository)) for path in sweeps} == {str(row.sweep) for row in plan.runs if row.sweep}
    phase = [row for row in plan.runs if row.what == "phase diagram"]
    assert sum(row.runs for row in phase if row.pretrain is not None) == 12
    assert sum(row.runs for row in phase if row.pretrain is None) == 36


def test_a_bad_plan_is_refused(tmp_path):
    path = tmp_path / "budget.yaml"
    for row, complaint in (
        ("model: m, task: t, steps: 0", r"runs\.0\.steps"),
        ("model: m, task: t", r"runs\.0: give experiment, or model, task and steps, or sweep, or pretrain"),
        ("pretrain: mini-s, steps: 40", r"runs\.0: pretrain: leave out what is not its"),
        ("pretrain: mini-s, sweep: s.yaml", r"runs\.0: pretrain: leave out sweep"),
        ("sweep: s.yaml", r"runs\.0: runs: give how many, but of a sweep"),
        ("pretrain: mini-s, seeds: 3", r"runs\.0\.seeds: unknown field; known here: what, runs, experiment"),
    ):
        path.write_text(f"runs: [{{what: x, runs: 1, {row}}}]")
        with pytest.raises(UserError, match=complaint):
            read_plan(path)
    with pytest.raises(UserError, match="cannot read"):
        read_plan(tmp_path / "none.yaml")
