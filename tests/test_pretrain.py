import json

import pytest
import torch

from ttrl_repro.errors import UserError
from ttrl_repro.miniature.corpus import Corpus, documents
from ttrl_repro.miniature.pretrain import IGNORE, batches, collate, learning_rate_at, pretrain_base
from ttrl_repro.miniature.recipes import Architecture, Optimisation, Recipe
from ttrl_repro.models import load_model

RECIPE = Recipe(
    name="tiny",
    description="for the tests",
    architecture=Architecture(hidden_size=32, layers=1, heads=1, kv_heads=1, intermediate_size=32),
    corpus=Corpus(tokens=60_000, terms={2: 1}, misconception={}, direct=0, run_on=0),
    optimisation=Optimisation(batch_tokens=1024, warmup_updates=5, learning_rate=1e-2),
)


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
        one, two, other = (pretrain_base(RECIPE, seed, tmp_path / str(i)) for i, seed in enumerate((0, 0, 1)))
    finally:
        torch.set_num_threads(threads)
    first, second, third = ((p / "model.safetensors").read_bytes() for p in (one, two, other))
    assert first == second
    assert first != third
    summary = json.loads((one / "recipe.json").read_text())["summary"]
    assert summary["tokens"] == pytest.approx(60_000, abs=50)
    # Guessing among the tokens of the vocabulary costs ln 22 = 3.1.
    assert summary["final_loss"] < 2
    assert "| mini-30 | greedy |" in (one / "README.md").read_text()
    model, _ = load_model(str(one))
    assert model.num_parameters() == RECIPE.architecture.parameters()
    with pytest.raises(UserError, match="is not empty"):
        pretrain_base(RECIPE, 0, one)
