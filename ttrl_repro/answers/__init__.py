"""From a model's text to an answer, and from an answer to a key: equal answers have equal keys."""

from ttrl_repro.answers.canonical import canonical, canonical_all, equivalent, outcome
from ttrl_repro.answers.extract import Extraction, extract, extraction
from ttrl_repro.answers.keys import classes, graded, same

__all__ = [
    "Extraction",
    "canonical",
    "canonical_all",
    "classes",
    "equivalent",
    "extract",
    "extraction",
    "graded",
    "outcome",
    "same",
]
