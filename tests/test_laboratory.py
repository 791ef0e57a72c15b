"""The freeze: the package agrees with it, changes are named, and foreign records are refused."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import load
from ttrl_repro import laboratory
from ttrl_repro.errors import UserError
from ttrl_repro.laboratory import (
    Frozen,
    differences,
    draw_hash,
    freeze,
    in_force,
    package_state,
    read,
    recipe_hash,
    unrelated,
)
from ttrl_repro.models import base_path
from ttrl_repro.records import Record
from ttrl_repro.tasks import Question, Task, load_task

XS = base_path("mini-xs", 0)


@pytest.fixture(scope="module")
def state() -> Frozen:
    return package_state(read().tag)


@pytest.fixture
def frozen_record(tmp_path, experiment):
    """A finished record of the frozen laboratory; `change(manifest)` edits what it says."""
    frozen, folder = read(), tmp_path / "r0"
    facts = {
        "model": {
            "name": "mini-xs",
            "weights": frozen.weights["mini-xs-seed0"],
            "recipe": frozen.recipes["mini-xs"],
        },
        "laboratory": frozen.content_hash(),
        "task": {"name": "mini-30", "fingerprint": "f"},
    }
    record = Record.create(folder, experiment, facts)
    record.manifest["git"] = {"commit": "0" * 40, "dirty": False}
    record.close("finished")
    return record


def created(folder: Path, experiment, manifest) -> Record:
    """Another finished record, with model, laboratory and git as in `manifest`."""
    record = Record.create(folder, experiment, {name: manifest[name] for name in ("model", "laboratory", "task")})
    record.manifest["git"] = manifest["git"]
    record.close("finished")
    return record


def test_the_package_is_as_frozen(state):
    changed = differences(read(), state)
    assert not changed, (
        f"the laboratory is not as frozen: {'; '.join(changed)}. Undo that, or freeze it anew "
        f"(`python -m ttrl_repro.laboratory freeze TAG`), which makes the older records foreign"
    )


def test_freezing_writes_what_is_read(state, tmp_path, monkeypatch):
    monkeypatch.setattr(laboratory, "package_state", lambda _: state)
    assert freeze(state.tag, tmp_path / "frozen.json") == state == read(tmp_path / "frozen.json")
    assert {"mini-s-seed0", "mini-xs-seed0"} <= set(state.weights)
    assert {len(hashes) for hashes in state.tasks.values()} == {10}


def test_the_tag_is_part_of_a_freeze_s_name(state):
    assert state.model_copy(update={"tag": "another"}).content_hash() != state.content_hash()


def test_every_difference_is_named(state):
    other = state.model_copy(
        update={
            "weights": {**state.weights, "mini-xs-seed0": "0"},
            "recipes": {name: found for name, found in state.recipes.items() if name != "mini-s"},
            "corpora": {**state.corpora, "mini-new": "0"},
            "tasks": {**state.tasks, "mini-30": ["0", *state.tasks["mini-30"][1:]]},
            "claims": "0",
            "findings": "0",
        }
    )
    assert differences(state, other) == [
        "weights of mini-xs-seed0: changed",
        "recipes of mini-s: missing",
        "corpora of mini-new: not in the freeze",
        "tasks of mini-30: changed",
        "claims: changed",
        "findings or arms: changed",
    ]


def test_the_hash_of_claims_sees_what_they_say_alone(tmp_path):
    text, path = laboratory.CLAIMS.read_text(), tmp_path / "claims.yaml"
    path.write_text("# A comment.\n" + text)
    assert laboratory.claims_hash(path) == laboratory.claims_hash()
    for one, other in (("smallest_effect: 0.05", "smallest_effect: 0.06"), ('confirm-oracle: "', 'confirm-oracle: "0')):
        path.write_text(text.replace(one, other, 1))
        assert laboratory.claims_hash(path) != laboratory.claims_hash()


@pytest.mark.parametrize("split", ["train", "fresh"])
@pytest.mark.parametrize("field", ["id", "problem", "answer"])
def test_a_draw_s_hash_sees_every_field_of_both_sets(monkeypatch, split, field):
    def changed(name, draw, part="train"):
        task = load_task(name, draw, part)
        if part != split:
            return task
        first, *rest = task.questions
        content = {"id": first.id, "problem": first.problem, "answer": first.answer, field: "0"}
        return Task(task.name, task.split, (Question(**content), *rest))

    before = draw_hash("mini-30", 0)
    monkeypatch.setattr(laboratory, "load_task", changed)
    assert draw_hash.__wrapped__("mini-30", 0) != before  # past the cache


def test_a_recipe_s_hash_leaves_out_its_description_alone():
    content = {"name": "x", "description": "a", "corpus": {"tokens": 1}}
    assert recipe_hash({**content, "description": "b"}) == recipe_hash(content)
    assert recipe_hash({**content, "corpus": {"tokens": 2}}) != recipe_hash(content)


def test_a_shipped_base_of_another_recipe_cannot_be_frozen(tmp_path, monkeypatch):
    monkeypatch.setattr(laboratory, "package_recipe_hash", lambda _: "0")
    with pytest.raises(UserError, match=r"did not make these shipped bases: .*mini-xs-seed0"):
        freeze("lab-v0", tmp_path / "frozen.json")
    assert not list(tmp_path.iterdir())


def test_a_damaged_freeze_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"missing; `python -m ttrl_repro.laboratory freeze TAG` writes it"):
        read(tmp_path / "frozen.json")
    (tmp_path / "frozen.json").write_text('{"tag": "lab-v0"}')
    with pytest.raises(UserError, match="weights: Field required"):
        read(tmp_path / "frozen.json")


@pytest.fixture(scope="module")
def hashes():
    """Of what the tests of `in_force` use, as the package is, whatever its own frozen.json says."""
    return {
        "weights": {"mini-xs-seed0": laboratory.base_hash(XS)},
        "recipes": {"mini-xs": laboratory.package_recipe_hash("mini-xs")},
        "corpora": {"mini-xs": laboratory.corpus_hash("mini-xs")},
        "tasks": {task: [draw_hash(task, 0)] * 3 + [draw_hash(task, 3)] for task in ("mini-30", "mini-83")},
    }


@pytest.fixture
def freeze_now(hashes, monkeypatch):
    """That these are frozen, under the tag lab-v0."""
    frozen = read().model_copy(update={"tag": "lab-v0", **hashes})
    monkeypatch.setattr(laboratory, "read", lambda: frozen)
    return frozen


@pytest.fixture
def copy(tmp_path):
    """A copy of the shipped mini-xs, to be changed."""
    return Path(shutil.copytree(XS, tmp_path / "mini-xs"))


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_in_force_where_all_that_a_run_uses_is_as_frozen(freeze_now):
    name = freeze_now.content_hash()
    assert in_force("mini-xs", 0, XS, ["mini-30", "mini-83"], 3) == (name, None)
    assert in_force("mini-xs", 0, XS, ["mini-30"], 1000) == (name, None)  # beyond the frozen draws: by the generator


def test_what_is_not_the_miniature_s_has_nothing_to_do_with_the_freeze(monkeypatch):
    def unread():
        raise AssertionError("frozen.json was read")

    monkeypatch.setattr(laboratory, "read", unread)
    assert in_force("some/model", 0, None, ["mini-30"], 0) == (None, None)
    assert in_force("mini-xs", 0, XS, ["mine.jsonl"], 0) == (None, None)


def test_what_is_not_in_the_freeze_is_named(freeze_now):
    reason = "its task mine.jsonl is not in the freeze lab-v0"
    assert in_force("mini-xs", 0, XS, ["mini-30", "mine.jsonl"], 0) == (None, reason)
    assert in_force("mini-m", 0, XS, ["mini-30"], 0) == (None, "its model mini-m is not in the freeze lab-v0")


def test_a_base_of_another_recipe_is_not_the_laboratory_s(freeze_now, copy):
    reason = "its base mini-xs, seed 0, was made by another recipe than that of lab-v0"
    edit_json(copy / "recipe.json", lambda facts: facts["recipe"]["corpus"].update(tokens=1))
    assert in_force("mini-xs", 0, copy, ["mini-30"], 0) == (None, reason)
    (copy / "recipe.json").unlink()
    assert in_force("mini-xs", 0, copy, ["mini-30"], 0) == (None, reason)


def test_a_base_is_of_the_seed_that_made_it(freeze_now, copy):
    # A copy of seed 0 in the folder of seed 1, which is not shipped, so that there are no weights to compare with.
    reason = "its base mini-xs, seed 1, was made with base seed 0"
    assert in_force("mini-xs", 1, copy, ["mini-30"], 0) == (None, reason)
    edit_json(copy / "recipe.json", lambda facts: facts["summary"].update(base_seed=1))
    assert in_force("mini-xs", 1, copy, ["mini-30"], 0) == (freeze_now.content_hash(), None)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda base: flip_a_bit(base / "model.safetensors"),
        lambda base: edit_json(base / "config.json", lambda config: config.update(rms_norm_eps=1e-2)),
        lambda base: edit_json(base / "config.json", lambda config: config["rope_parameters"].update(rope_theta=1e6)),
        lambda base: edit_json(base / "tokenizer.json", lambda tokenizer: tokenizer.update(version="2.0")),
        lambda base: edit_json(base / "tokenizer_config.json", lambda config: config.update(padding_side="right")),
        lambda base: edit_json(base / "generation_config.json", lambda config: config.update(eos_token_id=3)),
        lambda base: shutil.copy(base / "model.safetensors", base / "more.safetensors"),
    ],
)
def test_every_file_that_makes_a_base_is_hashed(freeze_now, copy, change):
    assert in_force("mini-xs", 0, copy, ["mini-30"], 0)[1] is None
    change(copy)
    reason = "its base mini-xs, seed 0, has other files than that of lab-v0"
    assert in_force("mini-xs", 0, copy, ["mini-30"], 0) == (None, reason)


def test_a_folder_without_weights_has_no_hash(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no \.safetensors here"):
        laboratory.base_hash(copy)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("package_recipe_hash", "the recipe mini-xs has changed since lab-v0"),
        ("corpus_hash", "the corpus of mini-xs has changed since lab-v0"),
        ("draw_hash", "the task mini-30 has changed since lab-v0"),
    ],
)
def test_not_in_force_once_the_package_has_changed(freeze_now, monkeypatch, function, reason):
    monkeypatch.setattr(laboratory, function, lambda *_: "0")
    assert in_force("mini-xs", 0, XS, ["mini-30"], 0) == (None, reason)


def test_a_draw_is_hashed_once_a_process(freeze_now, monkeypatch):
    draw_hash("mini-30", 0)
    monkeypatch.setattr(laboratory, "load_task", None)
    assert draw_hash("mini-30", 0) == freeze_now.tasks["mini-30"][0]


def test_frozen_records_are_loaded(frozen_record):
    study = load(frozen_record.folder, frozen=True)
    assert list(study.runs["weights"]) == [read().weights["mini-xs-seed0"]]


def older(manifest):
    del manifest["laboratory"], manifest["model"]["weights"], manifest["model"]["recipe"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (older, "does not say which laboratory it was made in (an older record)"),
        (lambda m: m.update(laboratory=None), "its model or its tasks are not the miniature's, or not those of the"),
        (lambda m: m.update(laboratory=None, laboratory_reason="its base is another"), "its base is another"),
        (lambda m: m.update(laboratory="0"), "it was made in laboratory 0, not "),
        (lambda m: m.update(parts={"trainer": "sharpened"}), "its weights were not trained: sharpened"),
        (lambda m: m["git"].update(dirty=True), f"made with changed code: uncommitted changes to {'0' * 12}"),
        (lambda m: m.update(resumed=[{"git": {**m["git"], "dirty": True}}]), "it was resumed with other code"),
        (lambda m: m.update(resumed=[{"git": None}]), "it was resumed with other code"),
        (lambda m: m["model"].update(weights="0"), "its weights of mini-xs, base seed 0, are not those of "),
        (lambda m: m["model"].update(recipe="0"), "mini-xs, seed 0, was made by another recipe than that of "),
        (lambda m: m["model"].update(name="some/model"), "its model some/model is not in the freeze "),
    ],
)
def test_other_records_are_refused(frozen_record, change, reason):
    change(frozen_record.manifest)
    frozen_record.save_manifest()
    where = re.escape(f"{frozen_record.folder}: not a record of the frozen laboratory: ")
    with pytest.raises(UserError, match=where + f".*{re.escape(reason)}"):
        load(frozen_record.folder, frozen=True)
    load(frozen_record.folder)  # what is descriptive may use it


@pytest.mark.parametrize(
    "change", [lambda m: m.update(git=None), lambda m: m.update(parts={"reward": "somebody's package 1.0"})]
)
def test_an_installed_package_and_parts_of_other_packages_are_accepted(frozen_record, change):
    change(frozen_record.manifest)
    frozen_record.save_manifest()
    load(frozen_record.folder, frozen=True)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A git checkout with commits before, at and after the tag lab-v0, and on a branch from before it, by name."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--initial-branch=main")
    commits = {}

    def commit(name):
        (folder / "laboratory.py").write_text(name)
        if name == "at":
            (folder / "miniature").mkdir()
            (folder / "miniature" / "frozen.json").write_text("{}")
        git(folder, "add", ".")
        git(folder, "commit", "--message", name)
        commits[name] = git(folder, "rev-parse", "HEAD")

    commit("before")
    commit("at")
    git(folder, "tag", "--annotate", "--message", "frozen", "lab-v0")
    commit("after")
    git(folder, "checkout", "-b", "other", commits["before"])
    commit("beside")
    return folder, commits


def test_commits_descend_from_the_tag_or_not(checkout):
    folder, commits = checkout
    assert unrelated([commits["at"], commits["after"]], "lab-v0", folder) == []
    assert unrelated(commits.values(), "lab-v0", folder) == [commits["before"], commits["beside"]]
    foreign = ["0" * 40, "HEAD", "--help", ""]  # not in this checkout, or no commit's name
    assert unrelated([*foreign, commits["at"]], "lab-v0", folder) == foreign


def test_without_the_tag_the_freeze_is_where_its_file_was_last_changed(checkout):
    folder, commits = checkout
    git(folder, "checkout", "main")
    assert unrelated(commits.values(), "lab-v9", folder) == [commits["before"], commits["beside"]]


def test_where_git_cannot_tell_it_says_so(checkout, tmp_path, monkeypatch):
    folder, commits = checkout
    assert unrelated([commits["at"]], "lab-v9", folder) is None  # neither such a tag nor the file on this branch
    assert unrelated([commits["at"]], "lab-v0", tmp_path) is None  # no checkout
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--depth=1", "--branch=lab-v0", f"file://{folder}", str(shallow))
    assert unrelated([commits["before"]], "lab-v0", shallow) is None
    (tmp_path / "checkout" / "inner").mkdir()  # an installed package in somebody else's checkout
    assert unrelated([commits["at"]], "lab-v0", tmp_path / "checkout" / "inner") is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert unrelated([commits["at"]], "lab-v0", folder) is None


def test_records_on_other_tasks_are_refused(tmp_path, experiment, frozen_record):
    evaluated = experiment.evaluate.model_copy(update={"tasks": ("mine.jsonl",)})
    other = experiment.model_copy(update={"evaluate": evaluated})
    created(tmp_path / "other", other, frozen_record.manifest)
    with pytest.raises(UserError, match=r"its task mine\.jsonl is not in the freeze "):
        load(tmp_path / "other", frozen=True)


def test_other_base_seeds_are_held_to_their_recipe(tmp_path, experiment, frozen_record):
    seeds = experiment.seeds.model_copy(update={"base": 1})
    frozen_record.manifest["model"]["weights"] = "0"  # made again on this machine
    record = created(tmp_path / "other", experiment.model_copy(update={"seeds": seeds}), frozen_record.manifest)
    assert list(load(record.folder, frozen=True).runs["seed_base"]) == [1]
    record.manifest["model"]["recipe"] = "0"
    record.save_manifest()
    with pytest.raises(UserError, match="mini-xs, seed 1, was made by another recipe"):
        load(record.folder, frozen=True)


def test_a_bad_tag_is_one_line_and_exit_code_2():
    done = subprocess.run(
        [sys.executable, "-m", "ttrl_repro.laboratory", "freeze", "lab v1"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "laboratory: 'lab v1' cannot be a tag; use letters, digits, dots and dashes, as in lab-v1\n"


def test_the_laboratory_imports_no_torch_and_no_analysis():
    code = "import sys, ttrl_repro.laboratory; assert not {'torch', 'analysis'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
