"""Pretraining recipes: everything that makes a base, as one YAML file per base."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ttrl_repro.errors import UserError
from ttrl_repro.miniature.corpus import Corpus
from ttrl_repro.miniature.tokenizer import VOCABULARY


class Architecture(BaseModel):
    """Shape of a Qwen3-architecture transformer (tied embeddings)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    hidden_size: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(32, gt=0)
    intermediate_size: int = Field(gt=0)
    max_positions: int = Field(160, gt=0)

    def parameters(self) -> int:
        """Number of trainable parameters."""
        h, d = self.hidden_size, self.head_dim
        attention = h * d * (self.heads + 2 * self.kv_heads) + self.heads * d * h + 2 * d
        layer = attention + 3 * h * self.intermediate_size + 2 * h
        return len(VOCABULARY) * h + self.layers * layer + h


class Optimisation(BaseModel):
    """One pass over the corpus with Muon (matrices) and AdamW (the rest), both at `learning_rate`.

    Linear warm-up, then cosine decay to a tenth of the peak.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    learning_rate: float = Field(3e-3, gt=0)
    batch_tokens: int = Field(4096, gt=0, description="tokens per update, padding included")
    warmup_updates: int = Field(100, ge=0)
    weight_decay: float = Field(0.1, ge=0)
    gradient_clip: float = Field(1.0, gt=0)


class Recipe(BaseModel):
    """A base: architecture, corpus and optimisation. The base seed is chosen when it is run."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[a-z0-9-]+$")
    description: str
    architecture: Architecture
    corpus: Corpus
    optimisation: Optimisation = Optimisation()


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("ttrl_repro.miniature") / "recipes"
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_recipe(name: str) -> Recipe:
    """A recipe by name, or from a path ending in `.yaml`.

    Raises UserError for an unknown name, an unreadable file or an invalid field.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{name}: no such recipe file")
        text = path.read_text()
    elif name in recipe_names():
        text = (resources.files("ttrl_repro.miniature") / "recipes" / f"{name}.yaml").read_text()
    else:
        raise UserError(f"recipe: unknown name {name!r}; known: {', '.join(recipe_names())}, or a path to a .yaml")
    try:
        return Recipe.model_validate(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "(top level)"
            raise UserError(f"{name}: {where}: {first['msg']}") from error
        raise UserError(f"{name}: not valid YAML: {error}") from error
