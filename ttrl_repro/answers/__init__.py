"""From a model's text to an answer, and from an answer to a key: equal answers have equal keys.

extract       text -> answer: the last box; other ways if asked for
canonical     answer -> key: at a glance, from the cache, or by the worker
  sentences   an answer that is still a sentence -> the part that is the answer
  words       a key for what is not mathematics
guard         starts the worker, asks it, replaces it; reply: what it says
  worker      the process that parses: limits itself, then reads
  tokens      characters -> tokens
  forms       tokens -> key: lists, sets, tuples, intervals, matrices, equations; with `cutting` (at commas and
              relations), `relations` (their sides, inequalities), `units` and `intervals`
  expressions tokens -> value of one expression; `values`: what values are, and their keys
  sympy_forms the same as forms, by math-verify, for what forms does not know
keys          the grammar of keys; which keys may mean the same; classes of keys
"""

from ttrl_repro.answers.canonical import canonical, canonical_all, equivalent, outcome
from ttrl_repro.answers.extract import Extraction, extract, extraction
from ttrl_repro.answers.keys import classes, graded, marked, right_class, same

__all__ = [
    "Extraction",
    "canonical",
    "canonical_all",
    "classes",
    "equivalent",
    "extract",
    "extraction",
    "graded",
    "marked",
    "outcome",
    "right_class",
    "same",
]
