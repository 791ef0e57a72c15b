import json
import shutil

import pytest
import torch

from ttrl_repro.config import Prompt
from ttrl_repro.errors import UserError
from ttrl_repro.miniature.bases import SIZES
from ttrl_repro.miniature.card import CardProtocol, kept_card
from ttrl_repro.miniature.recipes import load_recipe
from ttrl_repro.models import base_path, load_model, locate
from ttrl_repro.prompts import BOXED, encode_prompts, render
from ttrl_repro.rollouts import make_engine
from ttrl_repro.tasks import Question

CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


@pytest.mark.parametrize("name", SIZES)
def test_shipped_bases_load_and_are_what_their_recipe_says(name):
    model, tokenizer = load_model(name)
    assert model.dtype == torch.float32
    assert model.num_parameters() == load_recipe(name).architecture.parameters()
    assert make_engine("auto", model, tokenizer).name == "cpu"
    facts = json.loads((base_path(name, 0) / "recipe.json").read_text())
    assert facts["recipe"] == load_recipe(name).model_dump(mode="json")
    # Its card is of these weights, of the tasks as they are, and of the protocol that `ttrl bases` has now.
    assert kept_card(base_path(name, 0), CardProtocol.standard()) is not None


def test_all_shipped_bases_together_are_small():
    folders = [base_path(name, 0) for name in SIZES]
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) < 10_000_000


def test_a_base_that_is_not_there_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TTRL_BASES", str(tmp_path))
    with pytest.raises(UserError, match="`ttrl pretrain mini-s --seed 3`"):
        locate("mini-s", 3)
    made = tmp_path / "mini-s-seed3"
    made.mkdir()
    (made / "config.json").write_text("{}")
    assert locate("mini-s", 3) == str(made)


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "a/b/c"])
def test_missing_folders(name):
    with pytest.raises(UserError, match="no such folder"):
        locate(name)


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(UserError, match=r"has no config.json"):
        locate(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot load local folder"):
        load_model(str(tmp_path))


def test_a_truncated_model_is_refused(tmp_path):
    shutil.copytree(base_path("mini-xs", 0), tmp_path / "models" / "cut")
    weights = tmp_path / "models" / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot load local folder"):
        load_model(str(tmp_path / "models" / "cut"))


def test_a_mistyped_path_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such folder models/foo"):
        locate("models/foo")


def test_prompts_without_a_chat_template_are_the_problem_itself(tokenizer):
    question = Question("q", "1+2=")
    assert render(question, tokenizer, Prompt()) == "1+2="
    assert render(question, tokenizer, Prompt(system="7", suffix="3")) == "7\n1+2=3"
    assert render(question, tokenizer, Prompt(suffix="boxed")) == f"1+2={BOXED}"


def test_prompts_with_a_chat_template(tokenizer):
    question = Question("q", "What is 1+2?")
    tokenizer.chat_template = CHAT
    try:
        assert render(question, tokenizer, Prompt()) == f"<user>What is 1+2?{BOXED}<assistant>"
        assert render(question, tokenizer, Prompt(suffix="")) == "<user>What is 1+2?<assistant>"
        assert render(question, tokenizer, Prompt(system="S", suffix="!")) == "<system>S<user>What is 1+2?!<assistant>"
        assert render(question, tokenizer, Prompt(suffix="boxed")) == render(question, tokenizer, Prompt())
        # A template that asks for a box already (Qwen2.5-Math's system prompt) is not asked twice ...
        tokenizer.chat_template = r"use \boxed{}" + CHAT
        assert render(question, tokenizer, Prompt()) == r"use \boxed{}<user>What is 1+2?<assistant>"
        # ... but a problem that merely speaks of one does not count.
        tokenizer.chat_template = CHAT
        assert render(Question("q", r"Is \boxed{1} prime?"), tokenizer, Prompt()).endswith(f"{BOXED}<assistant>")
    finally:
        tokenizer.chat_template = None


def test_a_problem_that_the_tokenizer_cannot_write_is_refused(tokenizer):
    with pytest.raises(UserError, match="question 'b': the model's tokenizer cannot write 'What is 1"):
        encode_prompts([Question("a", "1+2="), Question("b", "What is 1+2?")], tokenizer, Prompt())
