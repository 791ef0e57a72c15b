"""From a model's text to an answer, and from an answer to a key: equal answers have equal keys."""

from ttrl_repro.answers.canonical import canonical
from ttrl_repro.answers.extract import extract

__all__ = ["canonical", "extract"]
