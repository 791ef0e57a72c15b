import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from ttrl_repro.config import Experiment, load_experiment
from ttrl_repro.errors import UserError

MINIMAL = {"name": "x", "task": "mini-30", "model": "mini-xs"}


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_defaults_are_the_paper_s():
    config = Experiment.model_validate(MINIMAL)
    assert (config.rollout.votes, config.rollout.trained) == (64, 32)
    assert (config.evaluate.k, config.evaluate.temperature, config.evaluate.top_p) == (16, 0.6, 0.95)
    assert (config.reward.name, config.algorithm.name, config.algorithm.clip) == ("majority", "grpo", 0.2)


def test_yaml_round_trip(tmp_path):
    config = load_experiment(write(tmp_path, MINIMAL), ["train.steps=7", "evaluate.tasks=[mini-83]", "seeds.rl=3"])
    assert (config.train.steps, config.evaluate.tasks, config.seeds.rl) == (7, ("mini-83",), 3)
    assert load_experiment(write(tmp_path, config.to_yaml())) == config


def test_the_hash_names_the_cell_not_the_replicate():
    def digest(**changes: object) -> str:
        return Experiment.model_validate({**MINIMAL, **changes}).cell_hash()

    cell = digest()
    assert cell == digest(seeds={"rl": 1, "draw": 2, "base": 1}) == digest(name="y") == digest(claim="c")
    assert cell == digest(tracking={"project": "p"}) == digest(rollout={"votes": 64})  # a default written out
    others = [
        digest(task="mini-83"),
        digest(model="mini-s"),
        digest(train={"steps": 1}),
        digest(reward="oracle"),
    ]
    assert len({cell, *others}) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**MINIMAL, "modle": "x"}, "modle: unknown field; known here: name, claim, task"),
        ({**MINIMAL, "train": {"lr": 1}}, "train.lr: unknown field; known here: steps, questions_per_step"),
        (
            {**MINIMAL, "rollout": {"votes": 8, "trained": 16}},
            r"rollout: trained \(16\) must be at most votes \(8\)",
        ),
        ({**MINIMAL, "rollout": {"temperature": -1}}, r"rollout.temperature: .*greater than 0 \(given: -1\)"),
        ({**MINIMAL, "rollout": {"engine": "gpu"}}, "rollout.engine: .*'auto', 'cpu', 'transformers' or 'vllm'"),
        ({**MINIMAL, "reward": "magic"}, "reward: .*'majority'"),
        ({**MINIMAL, "evaluate": {"k": 99}}, r"evaluate: k \(99\) must be at most votes \(64\)"),
        ({**MINIMAL, "evaluate": {"temperature": 0.5}}, r"base_temperatures must contain temperature \(0.5\)"),
        ({**MINIMAL, "seeds": {"rl": -1}}, "seeds.rl"),
        ({"name": "x", "task": "mini-30"}, "model: Field required"),
        ({**MINIMAL, "name": "a b"}, "name: "),
        ("- a\n- b\n", "expected a mapping"),
        ("a: [", "not valid YAML"),
        ("", "expected a mapping"),
    ],
)
def test_bad_configs_are_refused_by_file_and_field(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        load_experiment(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["train.steps", "=3", "train..steps=3", "name.x=3", "train.steps=["])
def test_bad_overrides_are_refused(tmp_path, override):
    with pytest.raises(UserError, match="override"):
        load_experiment(write(tmp_path, MINIMAL), [override])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read the experiment: No such file"):
        load_experiment(tmp_path / "none.yaml")


def test_every_experiment_in_the_repository_loads(repository):
    paths = sorted((repository / "experiments").rglob("*.yaml"))
    assert paths
    for path in paths:
        assert load_experiment(path).name == path.stem


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("rollout", {"adaptive_error": 0.05, "adaptive_chunk": 64}, "saves nothing"),
        ("rollout", {"adaptive_error": 0.05, "trained": 64}, "saves nothing"),
        ("rollout", {"adaptive_error": 1.0}, "less than 1"),
        ("rollout", {"adaptive_chunk": 4}, "no effect"),
        ("answers", {"choices": "AA"}, "different letters"),
        ("answers", {"choices": "a"}, "pattern"),
        ("answers", {"mode": "choice", "last_number": True}, "no effect"),
        ("answers", {"mode": "words"}, "'math' or 'choice'"),
    ],
)
def test_settings_of_votes_and_answers_that_make_no_sense_are_refused(section, values, message):
    with pytest.raises(ValidationError, match=message):
        Experiment.model_validate({"name": "t", "task": "mini-30", "model": "mini-xs", section: values})


def test_committed_records_keep_their_cell(repository):
    """A field added to the config must not orphan the records made before it."""
    manifests = list((repository / "paper_figures" / "data").rglob("manifest.json"))
    assert len(manifests) >= 15
    for path in manifests:
        experiment = Experiment.model_validate(yaml.safe_load((path.parent / "config.yaml").read_text()))
        assert json.loads(path.read_text())["config_hash"] == experiment.cell_hash(), path
