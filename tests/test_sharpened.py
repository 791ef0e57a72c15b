import subprocess
import sys

import pytest
import torch

from analysis import Study
from analysis.claims import first_majority, read_claims
from analysis.controls import per_run
from analysis.sharpened_null import (
    NOT_COMPARABLE,
    comparable,
    load_sharpened,
    refuse_gains,
    says_gain,
    stand_in,
)
from analysis.sharpened_null import main as judge_sharpened
from tests.test_claims import TABLES, answers
from ttrl_repro.config import Evaluate, Experiment, Rollout, Seeds
from ttrl_repro.errors import UserError
from ttrl_repro.evaluate import evaluate
from ttrl_repro.models import load_model
from ttrl_repro.records import Record, read_eval
from ttrl_repro.run import resume, start
from ttrl_repro.sharpened import main, sharpen, write_sharpened


@pytest.fixture
def tiny(experiment) -> Experiment:
    """A cell that is written in a second, with a fresh set."""
    evaluate = experiment.evaluate.model_copy(update={"fresh": True, "base_temperatures": (0.6, 1.0)})
    return experiment.model_copy(update={"evaluate": evaluate, "rollout": Rollout(votes=4, trained=4)})


def test_sharpening_divides_logits():
    model, tokenizer = load_model("mini-xs")
    ids = tokenizer("47+36*7=", return_tensors="pt").input_ids
    with torch.no_grad():
        before = model(ids).logits
        sharpen(model, 0.25)
        after = model(ids).logits
    torch.testing.assert_close(after, before / 0.25, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_sharpened_is_refused():
    with pytest.raises(UserError, match="no last norm"):
        sharpen(torch.nn.Linear(2, 2), 0.5)  # type: ignore[arg-type]


# -- records -------------------------------------------------------------------------------------


def test_a_sharpened_record_has_the_evaluations_of_a_run(tiny, tmp_path):
    run, null = start(tiny, tmp_path / "run"), write_sharpened(tiny, 0.5, tmp_path / "null")

    def asked(record: Record, step: int) -> list[tuple[object, ...]]:
        names = ("task", "split", "temperature", "top_p", "question_id", "sample")
        return [tuple(row[name] for name in names) for row in read_eval(record.folder) if row["step"] == step]

    steps = tiny.train.steps
    for step in (0, steps):
        assert asked(null, step) == asked(run, step)
    before, after = ([row for row in read_eval(record.folder) if row["step"] == 0] for record in (null, run))
    assert before == after  # the same base on the same random numbers
    assert null.manifest["steps_done"] == steps
    assert (run.manifest["parts"], null.manifest["parts"]) == ({}, {"trainer": "sharpened"})
    assert null.manifest["sharpened_to"] == 0.5


def test_the_null_arm_follows_what_a_run_evaluates(tiny, tmp_path, monkeypatch):
    calls: list[tuple[object, ...]] = []

    def seen(engine, tokenizer, task, prompts, protocol, limit, seed, step, *rest):
        calls.append((task.name, task.split, protocol, limit, seed, step))
        return evaluate(engine, tokenizer, task, prompts, protocol, limit, seed, step, *rest)

    monkeypatch.setattr("ttrl_repro.run.evaluate", seen)
    start(tiny, tmp_path / "run")
    of_run = [call for call in calls if call[-1] in (0, tiny.train.steps)]
    calls.clear()
    write_sharpened(tiny, 0.5, tmp_path / "null")
    assert calls == of_run


def test_finished_replicates_are_kept_and_others_written_anew(tiny, tmp_path, capsys):
    path, out = tmp_path / "e.yaml", tmp_path / "out"
    path.write_text(tiny.to_yaml())
    main(path, out=out, replicates=2)
    whole = {r: [path.read_bytes() for path in sorted((out / r / "eval").iterdir())] for r in ("r0", "r1")}
    times = {r: (out / r / "manifest.json").stat().st_mtime_ns for r in ("r0", "r1")}
    cut = Record.reopen(out / "r1")
    cut.manifest["state"] = "running"
    cut.save_manifest()
    (out / "r1" / "eval" / "step-000000.parquet").write_bytes(b"half")
    with pytest.raises(UserError, match="`ttrl run` did not write this record"):
        resume(out / "r1")
    main(path, out=out, replicates=2)
    assert (out / "r0" / "manifest.json").stat().st_mtime_ns == times["r0"]
    assert Record.reopen(out / "r1").manifest["state"] == "finished"
    assert {r: [path.read_bytes() for path in sorted((out / r / "eval").iterdir())] for r in whole} == whole
    assert capsys.readouterr().out.count(f"record: {out / 'r1'}") == 2
    with pytest.raises(UserError, match=r"r0: holds another record, with sharpened_to 0\.3, here 0\.4"):
        main(path, out=out, replicates=1, temperature=0.4)
    start(tiny, tmp_path / "trained" / "r0")
    with pytest.raises(UserError, match=r"holds another record, with parts \{\}"):
        main(path, out=tmp_path / "trained", replicates=1)


def test_base_seeds_take_turns_and_a_missing_one_is_told_first(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TTRL_BASES", str(tmp_path / "bases"))
    path, written = tmp_path / "e.yaml", []
    path.write_text(tiny.to_yaml())
    with pytest.raises(UserError, match=r"seeds\.base=1 is not shipped"):
        main(path, out=tmp_path / "out", replicates=3, base_seeds=2)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("ttrl_repro.sharpened.locate", lambda *_: "")
    monkeypatch.setattr("ttrl_repro.sharpened.write_sharpened", lambda config, *_: written.append(config.seeds))
    main(path, out=tmp_path / "out", replicates=4, base_seeds=3)
    assert written == [Seeds(base=r % 3, draw=r, rl=r) for r in range(4)]
    main(path, out=tmp_path / "out", replicates=2)
    assert written[4:] == [Seeds(base=0, draw=r, rl=r) for r in range(2)]


# -- verdicts ------------------------------------------------------------------------------------


def test_of_the_study_s_claims_four_are_asked_of_a_sharpened_base():
    claims = read_claims()
    assert [claim.key for claim in claims if comparable(claim)] == ["gain", "beyond-first-vote", "fresh", "narrowing"]
    assert [claim.key for claim in claims if comparable(claim) and says_gain(claim)] == [
        "gain",
        "beyond-first-vote",
        "fresh",
    ]


@pytest.fixture
def written(tmp_path, experiment):
    """Ten made-up records: avg@2 .5 after "training", the base's best 1; pass@4 falls from 1 to .5."""

    def write(tables=TABLES, parts=None, replicates=10):
        for replicate in range(replicates):
            config = experiment.model_copy(update={"name": "sharpened", "seeds": Seeds(draw=replicate, rl=replicate)})
            facts = {"model": {"name": "mini-xs"}, "task": {"name": "mini-30", "fingerprint": f"{replicate}"}}
            parts = {"trainer": "sharpened"} if parts is None else parts
            record = Record.create(tmp_path / "null" / f"r{replicate}", config, {**facts, "parts": parts})
            for step in (0, 6):
                rows = [
                    row
                    for (at, t), codes in tables.items()
                    for split in ("train", "fresh")
                    for row in answers(at, t, codes, split)
                    if at == step
                ]
                record.write_eval(step, rows)
            record.manifest["steps_done"] = 6
            record.close("finished")
        return tmp_path / "null"

    write.folder = tmp_path / "null"
    return write


def test_a_mere_sharpener_satisfies_narrowing_and_no_gain(written, capsys):
    folder = written()
    judge_sharpened(folder)
    out = capsys.readouterr().out
    assert "| sharpened | 10 | -0.500 [-0.500, -0.500] | first majority not exceeded |" in out
    assert "| gain | 10 | -0.500 [-0.500, -0.500] | 0.0078 | contradicted | significant, with the other sign |" in out
    assert "| narrowing | 10 | +0.500 [+0.500, +0.500] | 0.0078 | supported | significant |" in out
    assert "| revoting | 0 | - | - | not comparable | not of confirm-majority and its base alone |" in out
    assert "A mere sharpener satisfies narrowing: support says nothing about learning there." in out


# The base's avg@2 is at most .25, its maj@4 0.
LOW = {(0, t): [[1, 1, 1, 1], [0, 1, 1, 1]] for t in (0.3, 0.6, 1.0)} | {(0, 0.0): [[1], [1]]}


def test_a_gain_is_refused(written):
    done = subprocess.run(
        [sys.executable, "-m", "analysis.sharpened_null", str(written({**TABLES, **LOW}))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert (
        "a gain (first majority exceeded, gain supported, beyond-first-vote supported, fresh supported)" in done.stderr
    )


def test_a_claim_may_be_supported_without_the_other_verdict(written):
    study, claims = load_sharpened(written({**TABLES, **LOW})), read_claims()
    stood = stand_in(study, claims)
    first = first_majority(study).assign(verdict="first majority not exceeded")
    with pytest.raises(UserError, match=r"a gain \(gain supported, "):
        refuse_gains(first, stood, claims)
    gains = stood["verdict"].eq("supported") & stood["key"].ne("narrowing")
    refuse_gains(first, stood[~gains], claims)


def test_records_that_tell_nothing_are_refused(written):
    with pytest.raises(UserError, match="9 finished replicates, and the claims ask for 10: nothing was tested"):
        judge_sharpened(written(replicates=9))
    record = Record.reopen(written.folder / "r0")
    record.manifest["parts"] = {}
    record.save_manifest()
    with pytest.raises(UserError, match="r0: is not the record of a sharpened base"):
        judge_sharpened(written.folder)


def test_records_of_one_draw_are_refused(written):
    study = load_sharpened(written(replicates=2))
    study.runs["seed_draw"] = 0
    with pytest.raises(UserError, match="each of its own draw"):
        stand_in(study, read_claims())


# -- a real one, in short ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharpened(tmp_path_factory) -> Study:
    """Ten replicates of mini-xs, with fewer samples than the study's."""
    folder = tmp_path_factory.mktemp("sharpened")
    settings = Evaluate(k=8, votes=16, base_temperatures=(0.3, 0.6, 1.0))
    for draw in range(10):
        experiment = Experiment(
            name="sharpened", task="mini-30", model="mini-xs", evaluate=settings, seeds=Seeds(draw=draw, rl=draw)
        )
        write_sharpened(experiment, 0.3, folder / f"r{draw}")
    return load_sharpened(folder)


def test_a_sharpened_base_looks_trained_and_does_not_exceed_its_first_majority_vote(sharpened):
    """The pipeline can say no: a base that learned nothing, but looks trained, is not reported as a gain."""
    assert per_run(sharpened).groupby("split")["gain"].mean().gt(0.03).all()
    assert first_majority(sharpened)["verdict"].tolist() == ["first majority not exceeded"]


def test_a_sharpened_base_narrows_and_has_no_other_arms(sharpened):
    verdicts = stand_in(sharpened, read_claims()).set_index("key")["verdict"]
    assert verdicts["narrowing"] == "supported"  # rightly: it reaches less than the base
    assert verdicts[["loss-mix", "revoting", "oracle-gap", "beyond-format"]].eq(NOT_COMPARABLE).all()


def test_a_sharpened_base_supports_no_claim_of_a_gain(sharpened):
    claims = read_claims()
    first, stood = first_majority(sharpened), stand_in(sharpened, claims)
    assert not stood.set_index("key")["verdict"][["gain", "beyond-first-vote", "fresh"]].eq("supported").any()
    refuse_gains(first, stood, claims)
