"""The example of another package's reward and algorithm: installed for real, and run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The example, installed into a folder of its own."""
    example = Path(__file__).resolve().parent.parent / "examples" / "plugin"
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(example, folder / "source")  # a copy: building leaves files behind
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"),
        *("--target", folder / "site", folder / "source"),
    ]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return folder / "site"


def ttrl(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "ttrl_repro.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture
def experiment(tmp_path) -> Path:
    content = {
        "name": "plugin",
        "task": "mini-30",
        "model": "mini-xs",
        "rollout": {"votes": 8, "trained": 4, "max_new_tokens": 48},
        "train": {"steps": 2, "questions_per_step": 6, "learning_rate": 1e-3},
        "evaluate": {"k": 2, "votes": 2, "base_temperatures": [0.6], "fresh": False},
    }
    path = tmp_path / "plugin.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_run_with_another_package_s_reward_and_algorithm(site, experiment, tmp_path):
    chosen = ["reward=shortest", "reward.least_votes=2", "algorithm=reinforce"]
    done = ttrl(site, "run", experiment, *chosen, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "shortest (least_votes=2)" in done.stdout
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["reward"] == {"name": "shortest", "least_votes": 2}
    assert config["algorithm"]["baseline"] == "step"
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    rows = pq.read_table(tmp_path / "run" / "samples").to_pylist()
    targets = {(row["step"], row["question_id"]): row["target_key"]
               for row in pq.read_table(tmp_path / "run" / "votes.parquet").to_pylist()}  # fmt: skip
    assert len(targets) == 12
    for at, target in targets.items():
        keys = [row["key"] for row in rows if (row["step"], row["question_id"]) == at]
        frequent = {key for key in keys if key is not None and keys.count(key) >= 2}
        assert target == min(frequent, key=lambda key: (len(key), key), default=None)
    for row in rows:
        target = targets[row["step"], row["question_id"]]
        assert row["reward"] == float(target is not None and row["key"] == target)
    assert 0 < sum(row["reward"] for row in rows) < len(rows)


def test_its_settings_are_checked_like_our_own(site, experiment, tmp_path):
    done = ttrl(site, "run", experiment, "reward=shortest", "reward.least_votes=0", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "reward: least_votes: Input should be greater than or equal to 1" in done.stderr
    assert not (tmp_path / "run").exists()


def test_without_the_package_its_names_are_unknown(experiment, tmp_path):
    done = ttrl(tmp_path, "run", experiment, "reward=shortest", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "reward: unknown reward 'shortest'; known: 'majority'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_example_s_algorithm(site):
    code = """
import json, numpy as np
from ttrl_repro.algorithms import ALGORITHMS
rewards = np.array([[1.0, 1, 0, 0], [1, 0, 0, 0]])
for baseline in ("step", "none"):
    print(json.dumps(ALGORITHMS.make({"name": "reinforce", "baseline": baseline}).advantages(rewards).tolist()))
"""
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
    step, none = map(json.loads, done.stdout.splitlines())
    # The mean of all eight rewards is 3/8.
    assert step == [[5 / 8, 5 / 8, -3 / 8, -3 / 8], [5 / 8, -3 / 8, -3 / 8, -3 / 8]]
    assert none == [[1, 1, 0, 0], [1, 0, 0, 0]]
