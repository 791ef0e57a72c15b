import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from safetensors.torch import load_file, save_file

from tests.test_pretrain import RECIPE
from ttrl_repro.errors import UserError
from ttrl_repro.evaluate import GREEDY, Protocol
from ttrl_repro.laboratory import base_hash
from ttrl_repro.miniature import card as card_module
from ttrl_repro.miniature.card import (
    Card,
    CardProtocol,
    Statistic,
    best_temperature,
    card_of,
    dials,
    locked,
    measured_hash,
    pooled,
    statistics_of,
)
from ttrl_repro.miniature.pretrain import pretrain_base
from ttrl_repro.progress import Progress
from ttrl_repro.stats import Estimate
from ttrl_repro.tasks import Task, load_task, task_names
from ttrl_repro.tasks.miniature import DEVELOPMENT_DRAWS

TINY = RECIPE.model_copy(update={"corpus": RECIPE.corpus.model_copy(update={"tokens": 20_000})})
SHORT = CardProtocol(
    tasks=("mini-30",),
    questions=31,
    protocols=(GREEDY, Protocol(0.6, 0.95, 4), Protocol(1.0, 1.0, 2)),
    k=2,
    max_new_tokens=20,
)


class Recorder(Progress):
    """Remembers which bars were opened, and what was said."""

    def __init__(self) -> None:
        super().__init__(enabled=False)
        self.started: list[str] = []
        self.said: list[str] = []

    def start(self, name: str, total: int, done: int = 0, unit: str = "it") -> None:
        self.started.append(name)
        super().start(name, total, done, unit)

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A tiny base with its card, made once."""
    folder = tmp_path_factory.mktemp("bases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTRL_BASES", str(folder))
        return pretrain_base(TINY, 3, protocol=SHORT)


@pytest.fixture
def base(made, tmp_path, monkeypatch) -> Path:
    """A copy of it, to be changed."""
    monkeypatch.setenv("TTRL_BASES", str(tmp_path / "cache"))
    return Path(shutil.copytree(made, tmp_path / made.name))


def test_statistics_of_sampled_answers():
    codes = np.array([[0, 0, 1, -1], [1, 1, 0, 1]])
    values = {name: one.value for name, one in statistics_of(codes, 0.6, k=2).items()}
    assert values == {
        "avg@2": 0.5,  # the first two samples: (1 + 0) / 2
        "maj@4": 0.5,  # the first question's vote is right, the second's is wrong
        "pass@4": 1.0,
        "majority_ratio": (2 / 4 + 3 / 4) / 2,  # the abstention counts as a sample
        "abstentions": (1 / 4 + 0) / 2,
    }
    assert {one.population for one in statistics_of(codes, 0.6, k=2).values()} == {"questions"}
    # No more samples than avg@k uses: no vote.
    assert list(statistics_of(codes, 0.3, k=4)) == ["avg@4", "abstentions"]


def test_statistics_of_greedy_answers():
    found = statistics_of(np.array([[0], [1], [-1], [0]]), 0.0, k=2)
    assert {name: one.value for name, one in found.items()} == {"greedy": 0.5, "abstentions": 0.25}


def test_draws_are_pooled_until_there_are_enough_questions():
    task, draws = pooled("mini-30", 31)
    assert (len(task.questions), draws) == (60, 2)
    # Development draws alone, so that the study's questions stay unseen.
    assert task.questions[:30] == load_task("mini-30", DEVELOPMENT_DRAWS).questions
    assert task.questions[30:] == load_task("mini-30", DEVELOPMENT_DRAWS + 1).questions
    assert pooled("mini-30", 30)[1] == 1


def test_the_standard_protocol_asks_every_task_but_those_of_single_figures():
    left_out = ("mix-", "phase-", "level-")
    assert CardProtocol.standard().tasks == tuple(name for name in task_names() if not name.startswith(left_out))
    assert len(CardProtocol.standard().tasks) == 9


def test_the_card_of_a_base(made):
    card = Card.from_json((made / "card.json").read_text())
    assert (card.weights, card.measured) == (base_hash(made), measured_hash(SHORT))
    found = [(one.task, one.draws, one.questions, one.measure, one.temperature) for one in card.statistics]
    assert found == [
        ("mini-30", 2, 60, measure, temperature)
        for temperature, measures in (
            (0.0, ("greedy", "abstentions")),
            (0.6, ("avg@2", "maj@4", "pass@4", "majority_ratio", "abstentions")),
            (1.0, ("avg@2", "abstentions")),
        )
        for measure in measures
    ]
    # After 20,000 tokens of expressions of two terms it is asked for longer ones.
    assert card.statistics[0].estimate.value < 0.5
    text = (made / "README.md").read_text()
    assert "# tiny, base seed 3" in text
    assert "| corpus: tokens | 20,000 |" in text
    assert "| optimisation: learning rate | 0.01 |" in text
    for name, value in dials(TINY.model_dump(mode="json")["corpus"], "corpus: "):
        assert f"| {name} | {value} |" in text
    assert f"| mini-30 | 60: draws 1000 to 1001 | `{load_task('mini-30', 1000).questions[0].problem}` |" in text
    assert "those below\n1000 are the study's, and stay unseen here" in text
    greedy = card.statistics[0].estimate
    assert f"| mini-30 | greedy | {greedy.value:.3f} [{greedy.low:.3f}, {greedy.high:.3f}] |" in text
    summary = json.loads((made / "recipe.json").read_text())["summary"]
    assert f"{summary['parameters']:,} parameters" in text


def test_dials_are_rendered_whatever_they_are():
    values = {"some_share": 0.5, "many": 1_000_000, "on": True, "nested": {"a": {"b": 1}, "c": [2, 0.25]}, "none": None}
    assert dials(values, "x: ") == [
        ("x: some share", "0.5"),
        ("x: many", "1,000,000"),
        ("x: on", "True"),
        ("x: nested", "a: b: 1, c: 2, 0.25"),
        ("x: none", "None"),
    ]


def test_a_card_is_kept_until_something_it_depends_on_changes(base, monkeypatch):
    kept = (base / "card.json").read_text()

    def evaluated(protocol=SHORT, again=False) -> bool:
        progress = Recorder()
        card = card_of(base, protocol, progress, again)
        assert (base / "card.json").read_text() == card.to_json()
        return progress.started == [f"evaluating {base.name}"]

    assert not evaluated()
    assert evaluated(again=True)
    assert (base / "card.json").read_text() == kept  # a function of base, tasks and protocol
    assert evaluated(dataclasses.replace(SHORT, seed=1))
    assert evaluated()
    weights = load_file(base / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, base / "model.safetensors", {"format": "pt"})
    assert evaluated()
    assert not evaluated()

    def relabelled(name: str, draw: int = 0) -> Task:
        task = load_task(name, draw)
        return Task(name, "train", tuple(dataclasses.replace(question, answer="1") for question in task.questions))

    monkeypatch.setattr(card_module, "load_task", relabelled)
    pooled.cache_clear()
    try:
        assert evaluated()
    finally:
        pooled.cache_clear()


def test_a_base_in_a_folder_that_is_not_ours_has_its_card_elsewhere(base, tmp_path, monkeypatch):
    for name in ("card.json", "README.md"):
        (base / name).unlink()
    monkeypatch.setattr(card_module.os, "access", lambda path, _: Path(path) != base and os.path.exists(path))
    first, second = Recorder(), Recorder()
    assert card_of(base, SHORT, first) == card_of(base, SHORT, second)
    assert (len(first.started), len(second.started)) == (1, 0)
    assert sorted(path.name for path in (tmp_path / "cache" / "cards" / base.name).iterdir()) == [
        "README.md",
        "card.json",
    ]
    assert not (base / "card.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"weights": "a", "measured": "b"}', '{"statistics": [], "other": 1}'])
def test_a_card_that_is_none_is_refused(base, text):
    (base / "card.json").write_text(text)
    with pytest.raises(UserError, match=r"card\.json: is not the card of a base"):
        card_of(base, SHORT, Recorder())


def test_a_second_process_waits_and_says_so(base, tmp_path):
    with locked(base, print):
        (lock,) = (tmp_path / "cache" / ".locks").iterdir()
    held = FileLock(lock)
    held.acquire()
    said = []

    def release(message: str) -> None:
        said.append(message)
        held.release()

    with locked(base, release):
        pass
    assert said == [f"waiting for another process that works on {base}"]
    with locked(base, said.append), locked(tmp_path, said.append):  # another folder is another lock
        pass
    assert len(said) == 1


def test_bases_folder_that_is_a_file(base, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TTRL_BASES", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set TTRL_BASES to a folder of yours"):
        card_of(base, SHORT, Recorder())


def test_a_bases_folder_on_a_read_only_file_system(base, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))  # no PermissionError

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(
        UserError, match=r"cannot be written .*ead-only file system.*; set TTRL_BASES to a folder of yours"
    ):
        card_of(base, SHORT, Recorder())


def test_the_best_temperature():
    def statistic(temperature: float, value: float, measure: str = "avg@2", task: str = "t") -> Statistic:
        return Statistic(task, 1, 1, measure, temperature, Estimate(value, value, value, None))

    found = [statistic(0.3, 0.5), statistic(0.6, 0.5), statistic(1.0, 0.4), statistic(1.0, 0.9, "maj@4")]
    assert best_temperature([*found, statistic(1.0, 1.0, task="u")], "t", 2) == 0.3  # of equal ones the lowest


def test_a_base_with_too_few_positions_is_told_so(base):
    with pytest.raises(UserError, match="max_positions: 200 after the"):
        card_of(base, dataclasses.replace(SHORT, max_new_tokens=200), Recorder())
