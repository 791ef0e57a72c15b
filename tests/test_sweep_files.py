"""Sweep files: W&B's format, its expansion of commands, cells, and what is refused."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps import utils as wandbs

from ttrl_repro.config import load_experiment
from ttrl_repro.errors import UserError
from ttrl_repro.sweeps.files import Choice, Range, overrides_of, read_sweep, schema_complaint

COMMAND = ["${env}", "ttrl", "run", "${program}", "${args_no_hyphens}"]


@pytest.fixture
def write(tmp_path, experiment):
    """Writes a sweep file over the small experiment; fields in place of, or beside, those of a grid of two votes."""
    program = tmp_path / "experiment.yaml"
    program.write_text(experiment.to_yaml())

    def written(**fields):
        content = {
            "name": "small",
            "program": str(program),
            "method": "grid",
            "command": COMMAND,
            "parameters": {"rollout.votes": {"values": [4, 8]}},
            **fields,
        }
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
        return path

    return written


def test_cells_are_all_combinations_the_last_parameter_fastest(write):
    parameters = {"rollout.votes": {"values": [4, 8]}, "train.steps": {"value": 3}, "seeds.rl": {"min": 0, "max": 2}}
    sweep = read_sweep(write(parameters=parameters))
    cells = list(sweep.cells())
    assert [(c.params["rollout.votes"], c.params["seeds.rl"]) for c in cells] == [
        (4, 0), (4, 1), (4, 2), (8, 0), (8, 1), (8, 2),
    ]  # fmt: skip
    assert sweep.size() == 6
    assert all(cell.experiment.train.steps == 3 for cell in cells)
    assert len({cell.key for cell in cells}) == 6
    assert cells[1].key == cells[0].key.replace("-r0", "-r1"), "a replicate has its cell's hash"


def test_a_mapping_as_value_sets_fields_together(write):
    pairs = [{"votes": 4, "trained": 2}, {"votes": 16, "trained": 8}]
    cells = list(read_sweep(write(parameters={"rollout": {"values": pairs}})).cells())
    found = [(cell.experiment.rollout.votes, cell.experiment.rollout.trained) for cell in cells]
    assert found == [(4, 2), (16, 8)]
    assert all(cell.experiment.rollout.max_new_tokens == 48 for cell in cells), "the others stay"


def test_run_cap_cuts_a_grid(write):
    assert read_sweep(write(run_cap=1)).size() == 1
    assert read_sweep(write(run_cap=9)).size() == 2


VALUES = [4, 1e-05, 0.1, True, False, "rloo", {"name": "ppo", "gae_lambda": 0.9}, [0.3, 0.6]]


@pytest.mark.parametrize("value", VALUES)
def test_commands_are_expanded_as_wandb_s_agent_does(write, monkeypatch, value):
    monkeypatch.setenv("LAUNCHER", "srun")
    command = ["${env}", "${envvar:LAUNCHER}", "--x=${envvar:MISSING}", *COMMAND[1:]]
    sweep = read_sweep(write(command=command, parameters={"p.q": {"value": value}, "r": {"value": 1}}))
    params = {"p.q": value, "r": 1}
    theirs = wandbs.create_sweep_command_args({"args": {name: {"value": v} for name, v in params.items()}})
    theirs |= {"env": ["/usr/bin/env"], "program": [str(sweep.program)]}
    expected = []
    for part in wandbs.create_sweep_command(list(command)):
        expected += theirs[part[2:-1]] if part.startswith("${") and part.endswith("}") else [part]
    assert sweep.argv(params, "python") == expected
    assert expected[1:3] == ["srun", "--x=MISSING"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train.learning_rate", 1e-05),
        ("train.gradient_checkpointing", True),
        ("algorithm", {"name": "ppo", "gae_lambda": 0.9}),
        ("evaluate.base_temperatures", [0.3, 0.6]),
    ],
)
def test_what_python_prints_is_read_back_as_it_was(write, name, value):
    sweep = read_sweep(write(parameters={name: {"value": value}}))
    (cell,) = sweep.cells()
    content = yaml.safe_load(sweep.program.read_text())
    *groups, last = name.split(".")
    at = content
    for group in groups:
        at = at[group]
    at[last] = value
    direct = sweep.program.with_name("direct.yaml")
    direct.write_text(yaml.safe_dump(content))
    assert cell.experiment == load_experiment(direct)


def test_resume_takes_the_place_of_run(write, tmp_path):
    sweep = read_sweep(write(command=["${env}", "${interpreter}", "-m", "ttrl_repro.cli", *COMMAND[2:]]))
    argv = sweep.resume_argv(tmp_path / "record", sys.executable)
    assert argv == ["/usr/bin/env", sys.executable, "-m", "ttrl_repro.cli", "resume", str(tmp_path / "record")]


@pytest.mark.parametrize(
    ("spec", "space"),
    [
        ({"min": 1, "max": 4}, Range(1, 4, integer=True)),
        ({"min": 0.5, "max": 2.0}, Range(0.5, 2.0)),
        ({"min": 1e-5, "max": 1e-3, "distribution": "log_uniform_values"}, Range(1e-5, 1e-3, log=True)),
        ({"min": 0.0, "max": 1.0, "distribution": "log_uniform"}, Range(1.0, 2.718281828459045, log=True)),
        ({"min": 8, "max": 64, "q": 8, "distribution": "q_uniform"}, Range(8, 64, step=8)),
        ({"min": 0.1, "max": 0.3, "q": 0.1, "distribution": "q_uniform"}, Range(0.1, 0.3, step=0.1)),
        ({"values": ["grpo", "rloo"]}, Choice(("grpo", "rloo"))),
    ],
)
def test_distributions(write, spec, space):
    fields = {"method": "random", "run_cap": 3, "metric": {"name": "majority_ratio"}}
    assert read_sweep(write(**fields, parameters={"p": spec})).parameters["p"] == space


EARLY = {"type": "hyperband", "min_iter": 3}
BAYES = {"method": "bayes", "run_cap": 3, "metric": {"name": "majority_ratio"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "best"}, r"method: 'best' is not one of \['bayes', 'random', 'grid', 'custom'\]"),
        ({"metod": "grid"}, r"\(top level\): Additional properties are not allowed \('metod' was unexpected\)"),
        ({"parameters": {}}, "parameters: {} should be non-empty"),
        ({"parameters": None}, "parameters: missing, so there is nothing to sweep"),
        ({"parameters": {"p": {"vals": [1]}}}, "parameters.p: .* is no parameter that W&B knows"),
        ({"parameters": {"p": {"values": []}}}, "parameters.p: .* is no parameter that W&B knows"),
        ({"parameters": {"p": {"values": [1, 1]}}}, "parameters.p: a value is listed twice"),
        ({"parameters": {"p": {"values": [None]}}}, "parameters.p: W&B passes null as the word None"),
        ({"parameters": {"a": {"parameters": {"b": {"value": 1}}}}}, "nested parameters are not supported; write a.b"),
        ({"parameters": {"p": {"min": 0.1, "max": 1.0}}}, "parameters.p: a grid needs values"),
        ({"program": None}, "program: missing"),
        ({"program": "nowhere.yaml"}, "program: there is no experiment file nowhere.yaml in "),
        ({"command": None}, "command: missing; use "),
        ({"command": ["python", "${program}", "${args}"]}, r"command: \$\{args\} is nothing that `ttrl run` takes"),
        ({"command": ["ttrl", "eval", "${program}", "${args_no_hyphens}"]}, "command: must end with run, "),
        ({"name": "a/b"}, "name: 'a/b' names a folder"),
        ({"scheduler": {"engine": "optuna"}}, "scheduler: not supported; `ttrl sweep agent` asks Optuna itself"),
        ({"controller": {"type": "local"}}, "controller: not supported"),
        ({"job": "x"}, "job: not supported"),
        ({"method": "custom"}, "method: 'custom' is for W&B's own schedulers"),
        ({"method": "random"}, "metric: missing; random needs one"),
        ({**BAYES, "run_cap": None}, "run_cap: missing; bayes would go on for ever"),
        ({**BAYES, "metric": {"name": "x", "target": 0.9}}, "metric.target: not supported; use run_cap"),
        ({"project": "x"}, "project: not supported; use the parameter tracking.project"),
        ({"entity": "x"}, "entity: not supported; use the parameter tracking.entity"),
        ({"name": ".."}, "name: '..' names a folder"),
        ({"metric": {"name": "eval/mini-30/train/avg@2"}}, "metric: no eval/mini-30/train/avg@2 in an eval"),
        (
            {**BAYES, "metric": {"name": "eval/mini-30/train/greedy"}, "early_terminate": EARLY},
            "early_terminate: needs a metric of every step",
        ),
        ({**BAYES, "early_terminate": {**EARLY, "eta": 2.5}}, "early_terminate.eta: Optuna needs an integer"),
        ({"parameters": {"p": {"value": datetime.date(2025, 1, 1)}}}, "p: 2025-01-01 is no number, word, list"),
        (
            {**BAYES, "parameters": {"p": {"min": 1.0, "max": 1000.0, "distribution": "log_uniform"}}},
            "p: log_uniform takes exponents",
        ),
        ({**BAYES, "metric": None}, "metric: missing; bayes needs one"),
        ({**BAYES, "metric": {"name": "x", "impute": "best"}}, "metric.impute: not supported"),
        ({**BAYES, "early_terminate": {"type": "hyperband", "s": 2, "max_iter": 27}}, "early_terminate: give min_iter"),
        ({**BAYES, "parameters": {"p": {"distribution": "normal"}}}, "p.distribution: normal is not supported"),
        ({**BAYES, "parameters": {"p": {"min": 2, "max": 1}}}, r"p: min \(2\) must be below max \(1\)"),
        (
            {**BAYES, "parameters": {"p": {"min": 1, "max": 9, "q": 2, "distribution": "q_uniform"}}},
            r"p: min and max must be multiples of q \(2\)",
        ),
        (
            {**BAYES, "parameters": {"p": {"values": [1, 2], "probabilities": [0.1, 0.9]}}},
            "p.probabilities: not supported",
        ),
        ({"early_terminate": EARLY}, "early_terminate: needs a metric, and method"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_in_one_line(write, fields, message):
    path = write(**fields)
    with pytest.raises(UserError, match=message) as refused:
        list(read_sweep(path).cells())
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rollout.vots": {"value": 4}}, r"rollout.vots: unknown field; known here: .* \(with rollout.vots=4\)"),
        ({"rollout.votes": {"values": [8, 2]}}, r"trained \(4\) must be at most votes \(2\).*\(with rollout.votes=2\)"),
        ({"train.learning_rate": {"values": [0.001, "1e-3"]}}, "two cells are the same run test-"),
    ],
)  # fmt: skip
def test_a_cell_that_is_no_experiment_is_named(write, parameters, message):
    path = write(parameters=parameters)
    with pytest.raises(UserError, match=message):
        list(read_sweep(path).cells())


def test_overrides_are_words_of_ttrl_run():
    assert overrides_of({"rollout.votes": 16, "algorithm": "rloo"}) == ["rollout.votes=16", "algorithm=rloo"]


def test_every_sweep_of_the_study_is_valid(repository, monkeypatch):
    monkeypatch.chdir(repository)  # programs are given from there
    paths = sorted(Path("sweeps").glob("**/*.yaml"))
    assert paths
    names = []
    for path in paths:
        assert schema_complaint(yaml.safe_load(path.read_text())) is None
        sweep = read_sweep(path)
        names.append(sweep.name)
        if sweep.method == "grid":
            assert sum(1 for _ in sweep.cells()) == sweep.size()
    assert len(set(names)) == len(names)
