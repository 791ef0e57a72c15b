"""Runs from W&B and from the authors' own logs in the study's tables; the study as a W&B Report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from analysis.measures import Measurements, Quantity
from analysis.verl import metric_name, read_console_log
from analysis.wandb_report import build, content, publish
from analysis.wandb_source import load_wandb
from ttrl_repro.errors import UserError

CONSOLE = """\
(TaskRunner pid=1) {'actor_rollout_ref': {'model': 'x'}}
(TaskRunner pid=1) step:0 - val-core/AIME-TTT/acc/mean@16:0.129 - val-core/AIME-TTT/acc/maj@16/mean:0.21
(TaskRunner pid=1) step:1 - train/label_accuracy:0.375 - actor/entropy:np.float64(0.357) - actor/lr:5e-07 - perf/mfu:0.3
step:2 - train/label_accuracy:nan - train/entropy:0.3 - actor/entropy:0.2 - train/pass@64:1
step:2 - train/label_accuracy:0.5 - train/entropy:0.3 - actor/entropy:0.2 - train/pass@64:1.0
"""


GLOBAL = "training/global_step"


class Api:
    """Stands in for W&B's server: what `wandb.Api` gives, of runs that are given."""

    def __init__(self, *runs):
        self._runs, self.asked = runs, []

    def runs(self, project, filters, order):
        self.asked.append((project, filters, order))
        if project.startswith("nobody"):
            raise ValueError("Could not find project nobody/x")
        return iter(self._runs)


def run_of(name, config, history, **fields):
    """A run with a history longer than W&B's sample of 500 rows would be."""
    summary = SimpleNamespace(get={"state": "finished"}.get)
    given = {"name": name, "id": name, "group": None, "state": "finished", "config": config, "summary": summary}
    return SimpleNamespace(**{**given, **fields}, scan_history=lambda: iter(history))


def test_the_whole_history_of_our_runs(experiment):
    task = {"name": "mini-30", "fingerprint": "f"}
    manifest = {"config_hash": "c0ffee", "task": task, "git": {"commit": "abc"}, "model": {"weights": "w"}}
    config = {**experiment.model_dump(mode="json"), "manifest": manifest}
    history = [
        {
            "_step": step,
            "_runtime": 1.0,
            "label_accuracy": step / 1000,
            "time/seconds": 2.0,
            "samples": {"_type": "table"},
        }
        for step in range(1, 801)
    ]
    api = Api(run_of("one", config, history))
    study = load_wandb("me/ttrl", {"group": "c0ffee"}, api)
    assert api.asked == [("me/ttrl", {"group": "c0ffee"}, "+created_at")]
    (row,) = study.runs.to_dict("records")
    assert (row["run"], row["cell"], row["state"], row["seed_rl"]) == ("one", "c0ffee", "finished", 0)
    assert study.metrics["metric"].unique().tolist() == ["label_accuracy"]
    assert study.metrics[["step", "value"]].to_numpy()[[0, -1]].tolist() == [[1, 0.001], [800, 0.8]]
    assert study.configs["one"] == experiment
    run = study.runs.to_dict("records")[0]
    assert Measurements(study).of(run, Quantity(arm="x", measure="label_accuracy", at="last")) == pytest.approx(0.798)
    twins = load_wandb("me/ttrl", api=Api(*(run_of("one", config, history[:3], id=name) for name in "ab")))
    assert twins.runs["run"].tolist() == ["one (a)", "one (b)"]


def test_the_authors_runs_lie_in_the_same_tables():
    history = [
        {
            "_step": 7,
            "training/global_step": 3,
            "train/label_accuracy": 0.4,
            "train/majority_ratio": 0.2,
            "perf/mfu": 1.0,
        },
        {"_step": 8, "training/global_step": 4, "val-core/AMC-TTT/acc/mean@16": 0.489},
    ]
    study = load_wandb("authors/ttrl", api=Api(run_of("theirs", {"trainer": {}}, history, group="aime")))
    assert study.runs.to_dict("records") == [{"run": "theirs", "cell": "aime", "name": "theirs", "state": "finished"}]
    assert study.metrics.to_numpy().tolist() == [
        ["theirs", 3, "label_accuracy", 0.4],
        ["theirs", 3, "majority_ratio", 0.2],
        ["theirs", 4, "eval/AMC-TTT/avg@16", 0.489],
    ]


def test_projects_that_cannot_be_read(experiment):
    with pytest.raises(UserError, match="W&B project nobody/x: Could not find project"):
        load_wandb("nobody/x", api=Api())
    with pytest.raises(UserError, match="W&B project me/empty: no runs"):
        load_wandb("me/empty", api=Api())
    config = {**experiment.model_dump(mode="json"), "task": 1, "manifest": {}}
    with pytest.raises(UserError, match="run bad: its config is not valid here"):
        load_wandb("me/x", api=Api(run_of("bad", config, [])))


def test_their_console_log(tmp_path):
    path = tmp_path / "aime.log"
    path.write_text(CONSOLE)
    assert read_console_log(path).to_numpy().tolist() == [
        ["aime", 0, "eval/AIME-TTT/avg@16", 0.129],
        ["aime", 0, "eval/AIME-TTT/bootstrapped maj@16", 0.21],
        ["aime", 1, "label_accuracy", 0.375],
        ["aime", 1, "entropy", 0.357],
        ["aime", 1, "learning_rate", 5e-07],
        # The later line of a step; actor/entropy comes before train/entropy.
        ["aime", 2, "label_accuracy", 0.5],
        ["aime", 2, "entropy", 0.2],
        ["aime", 2, "pass@64", 1.0],
    ]
    path.write_text("nothing\n")
    with pytest.raises(UserError, match="no line as `step:1"):
        read_console_log(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_console_log(tmp_path / "none.log")


def test_names_without_a_counterpart():
    assert metric_name("perf/mfu") is None
    assert metric_name("val-aux/AIME/acc/mean@16") is None
    assert metric_name("val-core/AIME-TTT/acc/best@16/mean") == "eval/AIME-TTT/bootstrapped pass@16"


# -- the report --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(made_up_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wandb") / "study"
    for arm in ("s-30", "s-oracle"):
        shutil.copytree(made_up_study / arm, folder / arm)
    return folder


def test_the_report_is_built_and_valid_without_a_server(study):
    made = content(build(study, "me/ttrl"))
    kinds = [block["type"] for block in made["blocks"]]
    assert kinds.count("panel-grid") == 3
    texts = [block["content"] for block in made["blocks"] if block["type"] == "markdown-block"]
    assert "insufficient" in texts[0]
    assert "More votes a question give better labels" in texts[1]
    (first, *_) = [block for block in made["blocks"] if block["type"] == "panel-grid"]
    metrics = json.dumps(first)
    assert "label_accuracy" in metrics


def test_it_is_sent_only_if_asked_and_with_a_key(study, monkeypatch):
    assert publish(study, "me/ttrl", push=False)[-1].startswith("not sent: add --push")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    import wandb

    monkeypatch.setattr(wandb, "api", SimpleNamespace(api_key=None))
    with pytest.raises(UserError, match="no W&B key here"):
        publish(study, "me/ttrl", push=True)


def test_bad_requests(study):
    for project in ("ttrl", "/x", "me/"):
        with pytest.raises(UserError, match="expected ENTITY/PROJECT"):
            build(study, project)
    argv = [sys.executable, "-m", "ttrl_repro.cli", "report", str(study), "--wandb", "me/ttrl"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[0].partition(":")[0]) == (0, "report for me/ttrl")
