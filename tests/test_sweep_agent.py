"""Agents that run real cells: from start to record, killed, frozen, told to stop; and what users get told."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
import yaml

from bench.postgres import Server, binaries
from bench.stress import (
    COMMAND,
    EXPERIMENT,
    Fleet,
    children_of,
    complaints,
    shortfalls,
    stress,
    study_complaints,
    undisturbed_grid,
    write_sweep,
)
from ttrl_repro.errors import UserError
from ttrl_repro.records import Record, read_jsonl
from ttrl_repro.sweeps.agent import Agent, Limits, final_value
from ttrl_repro.sweeps.enqueue import enqueue
from ttrl_repro.sweeps.files import read_sweep
from ttrl_repro.sweeps.folders import Folders
from ttrl_repro.sweeps.search import Search, export_grid
from ttrl_repro.sweeps.store import Claim, Lost, Store, sqlite_url

SHORT = {**EXPERIMENT, "train": {**EXPERIMENT["train"], "steps": 2}, "evaluate": {**EXPERIMENT["evaluate"], "every": 2}}


@pytest.fixture
def write(tmp_path):
    """Writes a sweep file over a run of two steps."""

    def written(**fields):
        (tmp_path / "short.yaml").write_text(yaml.safe_dump(SHORT))
        content = {
            "name": "short",
            "program": str(tmp_path / "short.yaml"),
            "method": "grid",
            "command": COMMAND,
            "parameters": {"seeds.rl": {"values": [0, 1]}},
            **fields,
        }
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return written


@contextmanager
def opened(file, folder, lease=60.0):
    """A sweep with its cells in the storage, and what proposes them."""
    sweep = read_sweep(file)
    folder.mkdir(exist_ok=True)
    store = Store(sqlite_url(folder / "sweep.db"), sweep.name, lease)
    enqueue(sweep, store)
    yield sweep, store, None if sweep.method == "grid" else Search(store, sweep, sqlite_url(folder / "study.db"))
    store.close()


def ttrl(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "ttrl_repro.cli", *map(str, arguments)], capture_output=True, text=True, **options
    )


# -- whole sweeps -----------------------------------------------------------------------------------


def test_a_sweep_runs_its_cells_and_is_topped_up(write, tmp_path):
    metric = {"name": "eval/mini-30/train/T=0.6/avg@2", "goal": "maximize"}
    file, folder = write(metric=metric), tmp_path / "out"
    done = ttrl("sweep", "run", file, "--agents", 2, "--folder", folder)
    assert done.returncode == 0, done.stderr
    assert "short: 2 cells: 2 finished" in done.stdout
    records = {path.name: Record.reopen(path) for path in (folder / "runs").iterdir()}
    assert len(records) == 2
    for name, record in records.items():
        assert record.manifest["state"] == "finished"
        rl = record.manifest["seeds"]["rl"]
        assert record.manifest["sweep"] == {"name": "short", "cell": name, "parameters": {"seeds.rl": rl}}
    assert not list((folder / "attempts").glob("*/*"))

    write(metric=metric, parameters={"seeds.rl": {"values": [0, 1, 2]}})
    before = ttrl("sweep", "status", file, "--folder", folder)
    assert "missing: 1 cells of the file are not enqueued" in before.stdout
    assert "time left: about 0 min with 1 agent (none runs now)" in before.stdout
    more = ttrl("sweep", "agent", file, "--folder", folder)
    assert more.stdout.splitlines()[-1] == "1 cells finished, 0 failures, 0 lost"
    for _ in range(2):  # written anew each time
        study = ttrl("sweep", "study", file, "--folder", folder)
    url = f"sqlite:///{folder}/study.db"
    assert study.stdout.splitlines() == ["3 cells have ended", f"optuna-dashboard {url}"]
    with opened(file, folder) as (_, store, _search):
        values = {row.cell: row.value for row in store.cells()}
        assert len(values) == 3
        assert values[name] == pytest.approx(final_value(records[name].folder, metric["name"]))
        trials = optuna.load_study(study_name="short", storage=url).get_trials()
        assert {trial.user_attrs["cell"]: trial.value for trial in trials} == values
        assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in trials)
    planned = ttrl("sweep", "plan", file, "--records", folder / "runs")
    assert "| mini-xs | mini-30 | 3 | 0." in planned.stdout
    assert "(3 of mini-xs)" in planned.stdout

    write(metric=metric, parameters={"seeds.rl": {"values": [0]}})
    other = ttrl("sweep", "agent", file, "--folder", folder)
    assert (other.returncode, len(other.stderr.splitlines())) == (2, 1)
    assert "holds another sweep 'short': 2 of its cells" in other.stderr


def test_bayes_proposes_under_a_seed_prunes_and_leaves_no_ghost(write, tmp_path):
    file = write(
        method="bayes",
        run_cap=4,
        metric={"name": "majority_ratio", "goal": "maximize"},
        early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2},
        parameters={
            "train.learning_rate": {"min": 1e-5, "max": 1e-3, "distribution": "log_uniform_values"},
            "train.steps": {"value": 12},
        },
    )
    folder = tmp_path / "out"
    with opened(file, folder) as (sweep, store, search):
        # An agent that died between asking Optuna and writing the cell leaves a trial that nobody runs.
        search.study.ask(search.distributions)
        tally = Agent(store, sweep, folder, search, Limits(poll=0.05)).run()
        assert (tally.finished, tally.failed, tally.told_to_stop) == (4, 0, False)
        rows = store.cells()
        states = [row.state for row in rows]
        assert set(states) == {"finished", "pruned"}
        trials = search.study.get_trials()
        assert trials[0].state == optuna.trial.TrialState.FAIL
        expected = {"finished": "COMPLETE", "pruned": "PRUNED"}
        assert [trials[row.trial].state.name for row in rows] == [expected[state] for state in states]
        assert all(store.cells([path.name]) for path in (folder / "runs").iterdir())
        for row in rows:
            steps = len(read_jsonl(folder / "runs" / row.cell / "metrics.jsonl"))
            assert (steps == 12) == (row.state == "finished")
    with opened(file, tmp_path / "again") as (sweep, store, search):
        search.study.ask(search.distributions)
        assert search.propose()
        assert store.cells()[0].params == rows[0].params, "the same seed and trial number, the same proposal"
        assert search.propose()
        assert store.cells()[1].params != rows[0].params


@pytest.fixture(scope="module")
def peace(tmp_path_factory):
    """An undisturbed grid of six tiny runs."""
    return undisturbed_grid(tmp_path_factory.mktemp("peace"), cells=6, agents=3)


@pytest.mark.timeout(900)
def test_the_short_stress(peace, tmp_path):
    outcome = stress(tmp_path, cells=6, agents=3, kills=4, seed=1, server=None, say=print, peace=peace)
    assert not outcome.wrong
    assert outcome.done["claims taken over"] >= 2
    assert outcome.done["records resumed in training"] >= 1


@pytest.mark.timeout(900)
def test_the_short_stress_on_a_server_that_restarts(peace, tmp_path):
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    with Server() as server:
        outcome = stress(tmp_path, cells=6, agents=2, kills=2, seed=2, server=server, say=print, peace=peace)
    assert not outcome.wrong
    assert outcome.done["server restarts"] == 1


@pytest.mark.timeout(900)
def test_the_short_stress_of_a_search(tmp_path):
    outcome = stress(tmp_path, cells=6, agents=2, kills=3, seed=3, server=None, say=print, peace=None)
    assert not outcome.wrong


def test_what_was_not_done_to_a_sweep_is_a_failure_of_the_stress():
    done = Counter({"full stops": 1, "agents frozen past their lease": 1, "agents killed": 9, "runs killed": 1})
    assert shortfalls(done, 10, on_server=False) == ["0 records resumed in training, for 10 kills"]
    done["records resumed in training"] = 1
    assert shortfalls(done, 10, on_server=False) == []
    assert shortfalls(done, 12, on_server=True) == ["0 server restarts instead of 1", "10 kills instead of 12"]


# -- the checks of the stress can fail ----------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A grid of two tiny runs: its file, and its folder when it has finished."""
    root = tmp_path_factory.mktemp("grid")
    file = write_sweep(root, 2)
    done = ttrl("sweep", "run", file, "--folder", root / "peace", env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return file, root / "peace"


def break_metrics(folder):
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text().replace("0.", "0.1", 1))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder, cell: break_metrics(folder / "runs" / cell), "metrics.jsonl differs"),
        (lambda folder, cell: shutil.rmtree(folder / "runs" / cell), "no record"),
        (lambda folder, cell: (folder / "runs" / cell / ".x.partial").touch(), "half-written"),
        (lambda folder, cell: (folder / "attempts" / "1" / cell).mkdir(parents=True), "left over"),
        (lambda folder, _: (folder / "runs" / "other").mkdir(), "other: is no cell"),
        (lambda folder, cell: (folder / "runs" / cell / "samples" / "step-000002.parquet").write_bytes(
            (folder / "runs" / cell / "samples" / "step-000001.parquet").read_bytes()), "step-000002.parquet differs"),
    ],
)  # fmt: skip
def test_the_stress_notices(finished, tmp_path, damage, complaint):
    file, peace = finished
    folder = tmp_path / "copy"
    shutil.copytree(peace, folder)
    fleet = Fleet(file, folder, None, 1)
    with opened(file, folder) as (sweep, store, _):
        rows = store.cells()
        url = sqlite_url(folder / "study.db")
        export_grid(sweep, rows, url)
        study = optuna.load_study(study_name=sweep.name, storage=url)
        assert complaints(fleet, peace, rows, study) == []
        damage(folder, rows[0].cell)
        (line,) = complaints(fleet, peace, rows, study)
    assert complaint in line


# -- an agent's own ways --------------------------------------------------------------------------------


def test_told_to_stop_agents_give_back_and_others_go_on_from_the_checkpoint(write, tmp_path):
    steps = {"train.steps": {"value": 40}, "seeds.rl": {"value": 0}}
    file, folder = write(parameters=steps), tmp_path / "out"
    agent = subprocess.Popen(
        [sys.executable, "-m", "ttrl_repro.cli", "sweep", "agent", file, "--folder", folder, "--lease", "2"],
        stdout=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not list(folder.glob("attempts/1/*/checkpoints/*/checksums.json")) and time.monotonic() < until:
        time.sleep(0.2)
    stopped = ttrl("sweep", "stop", file, "--folder", folder)
    assert stopped.stdout.startswith("told 1 running cells' agents to end")
    said, _ = agent.communicate(timeout=60)
    assert "claim 1: given back" in said
    assert "ended as told by `ttrl sweep stop`" in said
    assert agent.returncode == 0
    with opened(file, folder, lease=2.0) as (_, store, _):
        (row,) = store.cells()
        assert (row.state, row.failures) == ("waiting", 0)
        began = Record.reopen(folder / "attempts" / "1" / row.cell).manifest
        assert 0 < began["steps_done"] < 40
        claim = store.claim("somebody")
        copy = Record.reopen(Folders(folder).adopt(row.cell, claim.token, claim.previous))
        assert copy.manifest["state"] == "interrupted"
        assert (copy.manifest["created"], copy.manifest["steps_done"]) == (began["created"], began["steps_done"])


def test_failures_in_a_row_end_the_agent_and_name_the_reason(write, tmp_path):
    file, folder = write(parameters={"model": {"values": ["no/such-model", "nor/this-one", "mini-xs"]}}), tmp_path / "o"
    done = ttrl("sweep", "agent", file, "--folder", folder, "--failures", 2, "--retries", 0)
    assert done.returncode == 1
    assert "ttrl: ended after 2 failures in a row: " in done.stderr
    assert "nor/this-one" in done.stderr.splitlines()[-1]
    status = ttrl("sweep", "status", file, "--folder", folder).stdout
    assert "short: 3 cells: 1 waiting, 2 failed" in status
    assert status.count("\nfailed: ") == 2
    assert ttrl("sweep", "retry", file, "--folder", folder).stdout == "2 cells wait again\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage", "postgresql+psycopg://a:secret@127.0.0.1:1/x"], "storage postgresql+psycopg://a:***@127.0.0.1:1/x"),
        (["--folder", "/proc/nowhere"], "/proc/nowhere: cannot be made"),
    ],
)  # fmt: skip
def test_bad_requests_are_one_line(write, arguments, message):
    done = ttrl("sweep", "agent", write(), *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert message in done.stderr
    assert "secret" not in done.stderr


def test_asking_for_a_sweep_that_was_not_started(write, tmp_path):
    for command in ("status", "stop", "retry"):
        done = ttrl("sweep", command, write(), "--folder", tmp_path / "none")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "has not been started here" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_full_disk_is_a_failure_with_a_name_and_nothing_is_lost(write, tmp_path, monkeypatch):
    file, folder = write(parameters={"seeds.rl": {"value": 0}}), tmp_path / "out"
    with opened(file, folder) as (sweep, store, _):
        agent = Agent(store, sweep, folder, None, Limits(retries=1))

        def full(*_):
            raise OSError(28, "No space left on device", str(folder / "attempts"))

        with monkeypatch.context() as patch:
            patch.setattr(Folders, "adopt", full)
            agent._run_cell(store.claim(agent.name), time.monotonic())
        (row,) = store.cells()
        assert (row.state, row.failures) == ("waiting", 1)
        assert row.error == f"No space left on device: {folder / 'attempts'}"
        assert agent.run().finished == 1


def test_a_run_whose_agent_is_killed_dies_with_it(write, tmp_path):
    file, folder = write(parameters={"train.steps": {"value": 200}}), tmp_path / "out"
    agent = subprocess.Popen([sys.executable, "-m", "ttrl_repro.cli", "sweep", "agent", file, "--folder", folder])
    children = f"/proc/{agent.pid}/task/{agent.pid}/children"
    until = time.monotonic() + 60
    while not (found := Path(children).read_text().split()) and time.monotonic() < until:
        time.sleep(0.1)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    until = time.monotonic() + 10
    while os.path.exists(f"/proc/{found[0]}") and time.monotonic() < until:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{found[0]}")


@pytest.fixture
def wandb_service():
    """The address of a W&B service that another process keeps open."""
    program = "import os, wandb; wandb.setup(); print(os.environ['WANDB_SERVICE'], flush=True); input()"
    environment = {**os.environ, "WANDB_MODE": "offline"}
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as keeper:
        address = keeper.stdout.readline().strip()
        assert address
        yield address
        keeper.communicate("\n")


def test_a_killed_run_goes_on_where_agents_inherit_a_wandb_service(write, tmp_path, wandb_service):
    """As in a notebook that used W&B before: the service outlives the run, and holds its id."""
    file, folder = write(parameters={"train.steps": {"value": 12}}), tmp_path / "out"
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SERVICE": wandb_service}
    argv = [sys.executable, "-m", "ttrl_repro.cli", "sweep", "agent", file, "--folder", folder, "--retries", "1"]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) as agent:
        until = time.monotonic() + 60
        while not (checkpoints := list(folder.glob("**/checkpoint-*"))) and time.monotonic() < until:
            time.sleep(0.01)
        if checkpoints:
            (child,) = children_of(agent.pid)
            os.kill(child, signal.SIGKILL)
        said, _ = agent.communicate(timeout=120)
    assert checkpoints
    assert agent.returncode == 0, said
    with opened(file, folder) as (_, store, _):
        (row,) = store.cells()
    assert (row.state, row.failures) == ("finished", 1)


def test_a_run_that_hangs_is_killed_says_where_it_stood_and_is_tried_again(write, tmp_path):
    program = "import faulthandler, signal, time; faulthandler.register(signal.SIGUSR1); time.sleep(300)"
    file, folder = (
        write(command=["${interpreter}", "-c", program, *COMMAND[-3:]], parameters={"seeds.rl": {"value": 0}}),
        tmp_path / "o",
    )
    with opened(file, folder) as (sweep, store, _):
        tally = Agent(store, sweep, folder, None, Limits(retries=1, silence=2.0, poll=0.1)).run()
        assert (tally.failed, tally.given_up) == (2, 1)
        (row,) = store.cells()
    assert row.state == "failed"
    assert row.error.startswith("hung: it wrote nothing for 2 seconds; where, is in ")
    for log in (folder / "logs").iterdir():
        assert 'File "<string>", line 1 in <module>' in log.read_text()


def test_a_command_that_is_not_there_is_named(write, tmp_path):
    file, folder = (
        write(command=["no-such-command", *COMMAND[-3:]], parameters={"seeds.rl": {"value": 0}}),
        tmp_path / "out",
    )
    with opened(file, folder) as (sweep, store, _):
        assert Agent(store, sweep, folder, None, Limits(retries=0)).run().given_up == 1
        assert store.cells()[0].error.startswith("no-such-command: No such file or directory (exit code 127; ")


def test_an_agent_that_died_before_publishing_is_made_up_for(finished, tmp_path):
    file, peace = finished
    folder = tmp_path / "copy"
    shutil.copytree(peace, folder)
    with opened(file, folder) as (sweep, store, _):
        (row, _) = store.cells()
        left = folder / "attempts" / str(row.token) / row.cell
        left.parent.mkdir(parents=True, exist_ok=True)
        (folder / "runs" / row.cell).rename(left)
        Agent(store, sweep, folder, None).repair()
    assert (folder / "runs" / row.cell / "manifest.json").is_file()
    assert not left.exists()


def test_a_finished_attempt_is_not_run_again(finished, tmp_path):
    file, peace = finished
    folder = tmp_path / "copy"
    shutil.copytree(peace, folder)
    (folder / "sweep.db").unlink()
    with opened(file, folder) as (sweep, store, search):
        claim = store.claim("one")  # it finished its run and died before it could say so
        left = folder / "attempts" / "1" / claim.cell
        left.parent.mkdir(parents=True, exist_ok=True)
        (folder / "runs" / claim.cell).rename(left)
        store.release(claim, 0.0)
        agent = Agent(store, sweep, folder, search)
        agent._run_cell(store.claim(agent.name), time.monotonic())
        assert agent.tally.finished == 1
        assert not list((folder / "logs").glob(f"{claim.cell}.2.log"))
    assert Record.reopen(folder / "runs" / claim.cell).manifest["state"] == "finished"


def test_a_stale_agent_publishes_nothing(finished, tmp_path):
    file, peace = finished
    folder = tmp_path / "copy"
    shutil.copytree(peace, folder)
    (folder / "sweep.db").unlink()
    with opened(file, folder, lease=0.2) as (sweep, store, search):
        stale = store.claim("frozen")
        left = folder / "attempts" / "1" / stale.cell
        left.parent.mkdir(parents=True, exist_ok=True)
        (folder / "runs" / stale.cell).rename(left)
        time.sleep(0.3)
        assert store.claim("other").cell == stale.cell
        agent = Agent(store, sweep, folder, search)
        agent._outcome = lambda *_: ("finished", None)
        agent._run_cell(stale, time.monotonic())
        assert (agent.tally.finished, agent.tally.lost) == (0, 1)
        with pytest.raises(Lost):
            store.renew(stale)
    assert not (folder / "runs" / stale.cell).exists()


def test_a_metric_that_no_step_has_is_named_at_the_first(write, tmp_path, capsys):
    grid = {"parameters": {"train.steps": {"value": 12}}, "metric": {"name": "majority_ratoi", "goal": "maximize"}}
    file, folder = write(**grid), tmp_path / "out"
    with opened(file, folder) as (sweep, store, _):
        agent = Agent(store, sweep, folder, None, Limits(retries=0, poll=0.05))
        assert agent.run().given_up == 1
        assert "has no metric 'majority_ratoi'" in store.cells()[0].error
    note, *_ = capsys.readouterr().out.splitlines()
    assert re.match(r"note: step \d+ has no metric 'majority_ratoi'; it has .*majority_ratio", note)


def test_a_metric_that_no_record_has_is_named(finished):
    _, peace = finished
    record = next((peace / "runs").iterdir())
    with pytest.raises(UserError, match=r"has no metric 'reward'; its last evaluation has eval/mini-30/train/greedy"):
        final_value(record, "reward")
    assert final_value(record, "majority_ratio") == read_jsonl(record / "metrics.jsonl")[-1]["majority_ratio"]


def test_wandb_s_agents_leave_their_sweep_in_the_record(tmp_path):
    program = tmp_path / "short.yaml"
    program.write_text(yaml.safe_dump(SHORT))
    environment = {**os.environ, "WANDB_SWEEP_ID": "abc123"}
    done = ttrl("run", program, "rollout.votes=12", "--out", tmp_path / "record", env=environment)
    assert done.returncode == 0, done.stderr
    sweep = json.loads((tmp_path / "record" / "manifest.json").read_text())["sweep"]
    assert sweep == {"wandb": "abc123", "parameters": {"rollout.votes": 12}}


def test_a_run_that_ends_well_without_its_record_has_failed(write, tmp_path):
    file, folder = (
        write(command=["${env}", "true", *COMMAND[-3:]], parameters={"seeds.rl": {"value": 0}}),
        tmp_path / "out",
    )
    with opened(file, folder) as (sweep, store, _):
        tally = Agent(store, sweep, folder, None, Limits(retries=0)).run()
        assert (tally.finished, tally.given_up) == (0, 1)
        (row,) = store.cells()
        assert (row.state, "no run record here" in row.error) == ("failed", True)


def test_an_experiment_file_that_changes_under_a_sweep_fails_its_cells(finished, tmp_path):
    file, peace = finished
    folder = tmp_path / "copy"
    shutil.copytree(peace, folder)
    with opened(file, folder) as (sweep, store, _):
        row, other = store.cells()
        record = folder / "runs" / other.cell
        agent = Agent(store, sweep, folder, None)
        claim = Claim(row.cell, row.params, 1, 0, None)
        assert agent._checked(folder / "runs" / row.cell, claim, "finished") is not None
        with pytest.raises(UserError, match=rf"is the record of {other.cell}: the experiment file was changed"):
            agent._checked(record, claim, "finished")


def test_records_outlive_their_database(finished, tmp_path):
    file, peace = finished
    folder = tmp_path / "copy"
    shutil.copytree(peace, folder)
    (folder / "sweep.db").unlink()
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    with opened(file, folder) as (sweep, store, _):
        assert Agent(store, sweep, folder, None).run().finished == 2
        assert all(row.value is not None for row in store.cells())
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")} == before


def test_whatever_goes_wrong_with_one_cell_is_its_failure_and_not_the_agent_s_end(write, tmp_path, monkeypatch):
    file, folder = write(parameters={"seeds.rl": {"value": 0}}), tmp_path / "out"
    with opened(file, folder) as (sweep, store, _):
        agent = Agent(store, sweep, folder, None, Limits(retries=0))
        monkeypatch.setattr(Folders, "adopt", lambda *_: 1 / 0)
        assert agent.run().given_up == 1
        assert store.cells()[0].error == "ZeroDivisionError: division by zero"


def test_a_search_s_failed_cell_is_retried_and_told_again(write, tmp_path):
    fields = {"method": "random", "run_cap": 1, "metric": {"name": "majority_ratio", "goal": "maximize"}}
    good = {"train.learning_rate": {"min": 1e-5, "max": 1e-4}}
    file, folder = write(**fields, parameters=good, command=["${env}", "false", *COMMAND[-3:]]), tmp_path / "out"
    with opened(file, folder) as (sweep, store, search):
        assert Agent(store, sweep, folder, search, Limits(retries=0)).run().given_up == 1
        assert [trial.state.name for trial in search.study.get_trials()] == ["FAIL"]
        assert store.retry() == 1
    write(**fields, parameters=good)
    with opened(file, folder) as (sweep, store, search):
        assert Agent(store, sweep, folder, search).run().finished == 1
        (row,) = store.cells()
        assert [trial.state.name for trial in search.study.get_trials()] == ["FAIL", "COMPLETE"]
        assert (row.trial, row.told, search.study.best_value) == (1, True, row.value)


def test_a_retried_cell_of_a_search_that_stops_early_runs_to_its_end(write, tmp_path):
    fields = {
        "method": "random",
        "run_cap": 1,
        "metric": {"name": "majority_ratio", "goal": "maximize"},
        "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 2},
    }
    good = {"train.learning_rate": {"min": 1e-5, "max": 1e-4}}
    file, folder = write(**fields, parameters=good, command=["${env}", "false", *COMMAND[-3:]]), tmp_path / "out"
    with opened(file, folder) as (sweep, store, search):
        assert Agent(store, sweep, folder, search, Limits(retries=0)).run().given_up == 1
        assert store.retry() == 1
    write(**fields, parameters=good)
    with opened(file, folder) as (sweep, store, search):
        tally = Agent(store, sweep, folder, search, Limits(poll=0.05)).run()
        assert (tally.finished, tally.lost) == (1, 0)


def test_a_search_ends_with_its_space(write, tmp_path, capsys):
    fields = {"method": "bayes", "run_cap": 9, "metric": {"name": "majority_ratio", "goal": "maximize"}}
    file, folder = write(**fields, parameters={"rollout.temperature": {"values": [0.8, 1.0]}}), tmp_path / "out"
    with opened(file, folder) as (_, store, search):
        while search.propose():
            pass
        assert len(store.cells()) == 2
        trials = search.study.get_trials()
        assert not search.propose()
        assert len(search.study.get_trials()) == len(trials)
    # A space without end whose values are all the same experiment: one look, and it is remembered.
    narrow = {"train.learning_rate": {"min": 1e-4, "max": 1.0000000000000002e-4}}
    file, folder = write(**fields, parameters=narrow), tmp_path / "narrow"
    with opened(file, folder) as (_, store, search):
        while search.propose():
            pass
        assert "100 proposals in a row were there already" in capsys.readouterr().out
        trials = search.study.get_trials()
        assert {trial.state.name for trial in trials} == {"FAIL", "RUNNING"}, "twins count as no evidence"
        assert not search.propose()
        assert len(search.study.get_trials()) == len(trials)


def test_another_seed_is_another_search(write, tmp_path):
    fields = {"method": "random", "run_cap": 1, "metric": {"name": "majority_ratio", "goal": "maximize"}}
    file = write(**fields, parameters={"train.learning_rate": {"min": 1e-5, "max": 1e-4}})
    with opened(file, tmp_path / "out"):
        done = ttrl("sweep", "agent", file, "--folder", tmp_path / "out", "--seed", 3)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2)
    assert "holds another sweep 'short': its seed is 0, this one's 3" in done.stderr


def test_a_search_s_study_is_brought_up_to_date_when_it_is_shown(write, tmp_path):
    fields = {"method": "random", "run_cap": 1, "metric": {"name": "majority_ratio", "goal": "maximize"}}
    file, folder = write(**fields, parameters={"train.learning_rate": {"min": 1e-5, "max": 1e-4}}), tmp_path / "out"
    with opened(file, folder) as (_, store, search):
        search.propose()
        store.finish(store.claim("one"), 0.5, 1.0)  # and died before it told the study
        assert [trial.state.name for trial in search.study.get_trials()] == ["RUNNING"]
        done = ttrl("sweep", "study", file, "--folder", folder)
        assert done.stdout == f"optuna-dashboard sqlite:///{folder / 'study.db'}\n"
        assert [trial.state.name for trial in search.study.get_trials()] == ["COMPLETE"]


def test_the_stress_notices_a_trial_that_nobody_runs(write, tmp_path):
    fields = {"method": "random", "run_cap": 2, "metric": {"name": "majority_ratio", "goal": "maximize"}}
    file = write(**fields, parameters={"train.learning_rate": {"min": 1e-5, "max": 1e-4}})
    with opened(file, tmp_path / "out") as (_, store, search):
        search.propose()
        store.finish(store.claim("one"), 0.5, 1.0)
        cell = store.cells()[0].cell
        assert study_complaints(store.cells(), search.study) == ["trial 0: RUNNING", f"{cell}: 0 trials that finished"]
        search.follow()
        assert study_complaints(store.cells(), search.study) == []
        search.study.ask(search.distributions)
        assert study_complaints(store.cells(), search.study) == ["trial 1: RUNNING"]


def test_missing_cells_of_a_capped_grid_are_those_it_will_have(write, tmp_path):
    grid = {"seeds.rl": {"values": list(range(12))}}
    with opened(write(parameters=grid, run_cap=3), tmp_path / "out") as (_, store, _):
        assert len(store.cells()) == 3
    status = ttrl("sweep", "status", write(parameters=grid, run_cap=5), "--folder", tmp_path / "out").stdout
    assert "missing: 2 cells of the file" in status


def test_a_disk_that_fills_up_inside_a_run_loses_nothing(write, tmp_path):
    """Files of a run may have 300 KiB each, which a checkpoint has not enough of; then the disk has room again."""
    file, folder = write(parameters={"seeds.rl": {"value": 0}}), tmp_path / "out"
    limited = ["/bin/sh", "-c", 'ulimit -f 600; exec "$0" "$@"', *COMMAND[1:]]
    bounded = write(parameters={"seeds.rl": {"value": 0}}, command=limited)
    with opened(bounded, folder) as (sweep, store, _):
        assert Agent(store, sweep, folder, None, Limits(retries=0)).run().given_up == 1
        (row,) = store.cells()
        assert "File too large" in row.error
        assert store.retry() == 1
    write(parameters={"seeds.rl": {"value": 0}})
    with opened(file, folder) as (sweep, store, _):
        assert Agent(store, sweep, folder, None).run().finished == 1
    assert ttrl("sweep", "run", file, "--folder", tmp_path / "peace").returncode == 0
    for name in ("metrics.jsonl", "predictions.jsonl"):
        one, other = (root / "runs" / row.cell / name for root in (folder, tmp_path / "peace"))
        assert one.read_bytes() == other.read_bytes()


def test_somebody_else_s_study_is_left_alone(write, tmp_path):
    fields = {"method": "random", "run_cap": 1, "metric": {"name": "majority_ratio", "goal": "maximize"}}
    file, folder = write(**fields, parameters={"train.learning_rate": {"min": 1e-5, "max": 1e-4}}), tmp_path / "out"
    folder.mkdir()
    url = sqlite_url(folder / "study.db")
    theirs = optuna.create_study(storage=url, study_name="short", direction="maximize")
    theirs.ask()
    with pytest.raises(UserError, match="has a study 'short' of somebody else's"), opened(file, folder):
        pass
    assert [trial.state.name for trial in theirs.get_trials()] == ["RUNNING"]


def test_agents_of_a_search_that_start_at_once_all_live(write, tmp_path):
    fields = {"method": "random", "run_cap": 3, "metric": {"name": "majority_ratio", "goal": "maximize"}}
    file = write(**fields, parameters={"train.learning_rate": {"min": 1e-5, "max": 1e-4}})
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", "ttrl_repro.cli", "sweep", "agent", file, "--folder", tmp_path / "out"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(3)
    ]
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0, 0], said
    assert sum(text.count(": finished") for text in said) == 3


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"schema_version": 99}'])
def test_a_plan_passes_over_what_is_no_record(write, tmp_path, manifest):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text(manifest)
    done = ttrl("sweep", "plan", write(), "--records", tmp_path / "other")
    assert done.returncode == 0, done.stderr
    assert "not measured" in done.stdout
