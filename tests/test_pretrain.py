import json
import math

import pytest
import torch

from ttrl_repro.errors import UserError
from ttrl_repro.evaluate import GREEDY, Protocol
from ttrl_repro.miniature import pretrain as pretrain_module
from ttrl_repro.miniature.card import CardProtocol
from ttrl_repro.miniature.corpus import Corpus, documents
from ttrl_repro.miniature.pretrain import IGNORE, batches, collate, learning_rate_at, make_base, pretrain_base
from ttrl_repro.miniature.recipes import Architecture, Optimisation, Recipe
from ttrl_repro.miniature.tokenizer import VOCABULARY
from ttrl_repro.models import load_model
from ttrl_repro.progress import Progress

RECIPE = Recipe(
    name="tiny",
    description="for the tests",
    architecture=Architecture(hidden_size=32, layers=1, heads=1, kv_heads=1, intermediate_size=32),
    corpus=Corpus(tokens=60_000, terms={2: 1}, misconception={}, direct=0, run_on=0),
    optimisation=Optimisation(batch_tokens=1024, warmup_updates=5, learning_rate=1e-2),
)
SMALL = RECIPE.model_copy(update={"corpus": RECIPE.corpus.model_copy(update={"tokens": 3_000})})
PROTOCOL = CardProtocol(("mini-30",), questions=30, protocols=(GREEDY, Protocol(0.6, 0.95, 2)), k=2)


@pytest.fixture(autouse=True)
def bases(tmp_path_factory, monkeypatch):
    """Locks of the bases outside the user's cache."""
    monkeypatch.setenv("TTRL_BASES", str(tmp_path_factory.mktemp("bases")))


def test_batches_hold_every_document_once_within_their_size():
    docs = documents(RECIPE.corpus, 0)
    plan = batches(docs, 1024, 0)
    assert sorted(i for rows in plan for i in rows) == list(range(len(docs)))
    for rows in plan:
        width = max(len(docs[i].prompt_ids) + len(docs[i].completion_ids) for i in rows)
        assert len(rows) * width <= 1024
    assert plan != batches(docs, 1024, 1)


def test_the_loss_counts_completions_alone():
    docs = documents(RECIPE.corpus, 0)[:5]
    ids, labels = collate(docs)
    for row, doc in enumerate(docs):
        start, end = len(doc.prompt_ids), len(doc.prompt_ids) + len(doc.completion_ids)
        assert ids[row, :end].tolist() == doc.prompt_ids + doc.completion_ids
        assert labels[row, start:end].tolist() == doc.completion_ids
        assert (labels[row, :start] == IGNORE).all()
        assert (labels[row, end:] == IGNORE).all()


def test_learning_rate():
    plan = Optimisation(learning_rate=1.0, warmup_updates=4)
    rates = [learning_rate_at(u, 104, plan) for u in range(105)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[54] == pytest.approx(0.55)
    assert rates[104] == pytest.approx(0.1)


def test_a_base_is_a_function_of_recipe_and_seed_and_learns(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one, two, other = (pretrain_base(RECIPE, seed, tmp_path / str(i), PROTOCOL) for i, seed in enumerate((0, 0, 1)))
    finally:
        torch.set_num_threads(threads)
    first, second, third = ((p / "model.safetensors").read_bytes() for p in (one, two, other))
    assert first == second
    assert first != third
    summary = json.loads((one / "recipe.json").read_text())["summary"]
    assert summary["tokens"] == pytest.approx(60_000, abs=50)
    # Guessing among the tokens of the vocabulary costs ln 41 = 3.7; knowing how often each occurs, 2.85.
    assert math.log(len(VOCABULARY)) == pytest.approx(3.7, abs=0.05)
    assert summary["final_loss"] < 2.3
    assert (one / "card.json").read_text() == (two / "card.json").read_text()
    assert "| mini-30 | greedy |" in (one / "README.md").read_text()
    model, _ = load_model(str(one))
    assert model.num_parameters() == RECIPE.architecture.parameters()
    with pytest.raises(UserError, match="is not empty"):
        pretrain_base(RECIPE, 0, one)


def test_a_base_whose_card_was_interrupted_is_there_and_has_no_card(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain_module, "card_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain_base(SMALL, 0, tmp_path / "base", PROTOCOL)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert load_model(str(tmp_path / "base"))[0].num_parameters() == RECIPE.architecture.parameters()
    assert not (tmp_path / "base" / "card.json").exists()


def test_a_pretraining_that_was_interrupted_leaves_no_base(tmp_path, monkeypatch):
    save = pretrain_module.build_tokenizer

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain_module, "build_tokenizer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain_base(SMALL, 0, tmp_path / "base", PROTOCOL)
    assert not (tmp_path / "base").exists()
    monkeypatch.setattr(pretrain_module, "build_tokenizer", save)
    make_base(SMALL, 0, tmp_path / "base", Progress(enabled=False))
    before = (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns
    make_base(SMALL, 0, tmp_path / "base", Progress(enabled=False), present_is_fine=True)
    assert (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns == before
