"""Fixtures: a tiny random model and the shipped base of the tests."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may depend on the network
os.environ.setdefault("WANDB_MODE", "disabled")  # the tests of the mirror set their own

import pytest
import torch
from hypothesis import settings
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ttrl_repro.config import Experiment
from ttrl_repro.miniature.pretrain import build_model
from ttrl_repro.miniature.recipes import Architecture
from ttrl_repro.miniature.tokenizer import build_tokenizer

# Machines are noisy: no example fails for the time it takes.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")

TINY = Architecture(hidden_size=32, layers=2, heads=2, kv_heads=1, head_dim=16, intermediate_size=48)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture
def tiny_model() -> PreTrainedModel:
    """A random Qwen3 model of about 10,000 parameters, large enough logits to have preferences."""
    model = build_model(TINY, seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(8)
    return model


@pytest.fixture
def experiment() -> Experiment:
    """A small TTRL run of mini-xs: 2 steps of 6 questions."""
    return Experiment.model_validate(
        {
            "name": "test",
            "task": "mini-30",
            "model": "mini-xs",
            "rollout": {"votes": 8, "trained": 4, "max_new_tokens": 48},
            "train": {"steps": 2, "questions_per_step": 6, "learning_rate": 1e-3, "checkpoint_every": 1},
            "evaluate": {"every": 1, "k": 2, "votes": 4, "base_temperatures": [0.6], "fresh": False},
        }
    )


@pytest.fixture
def repository() -> Path:
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def made_up_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of every arm of the study with made-up numbers, two replicates each, in ARM/rR."""
    from analysis.arms import read_arms
    from tests.synthetic_study import write_study

    folder = tmp_path_factory.mktemp("study")
    write_study(folder, read_arms(), replicates=2)
    return folder
