"""Answers that try to run code, to hang, or to eat memory. The corpus is in hostile_answers.py."""

import re
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile_answers import HOSTILE, MARKER
from ttrl_repro.answers import canonical, equivalent, extract, outcome
from ttrl_repro.answers.guard import GUARD, MEMORY, PATIENCE
from ttrl_repro.votes import vote

CATEGORIES = sorted({category for category, _ in HOSTILE})


def _peak(pid):
    """The most memory that a process has held, in bytes (Linux)."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("no /proc to read a process's memory from")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024


def test_the_corpus_is_large_and_varied():
    assert len({text for _, text in HOSTILE}) >= 1000
    assert min(Counter(category for category, _ in HOSTILE).values()) >= 20


@pytest.mark.parametrize("category", CATEGORIES)
def test_no_answer_runs_code_hangs_or_kills(category, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a file called MARKER would appear
    GUARD.close()  # so that the worker, too, is in that folder
    texts = [text for name, text in HOSTILE if name == category]
    for text in texts:
        started = time.monotonic()
        extract(text, final_answer=True, last_number=True)
        key = canonical(text)
        assert time.monotonic() - started < PATIENCE, ascii(text)[:100]
        assert key is None or len(key.encode()) < 20_000, ascii(text)[:100]  # it can be stored
        assert outcome(text) in ("parsed", "text", "parse_error", "parse_timeout")
    assert not list(tmp_path.rglob("*")), f"{MARKER} or another file was written"
    assert _peak(GUARD._running().pid) < MEMORY


def test_hostile_answers_among_others_do_not_change_the_vote():
    texts = [text for category, text in HOSTILE if category in ("code", "bytes")][:150]
    outcome_ = vote([*texts, *["7"] * 30])
    assert (outcome_.label, outcome_.counts["7"]) == ("7", 30 + sum(canonical(text) == "7" for text in texts))


FRAGMENTS = st.sampled_from(
    [
        *(r"\frac", r"\sqrt", r"\left(", r"\right)", r"\text{", r"\boxed{", r"\begin{pmatrix}", r"\end{pmatrix}", "&"),
        *("{", "}", "(", ")", "[", "]", r"\{", r"\}", "^", "_", "!", "|", "%", "$", "\\", r"\\", ",", ";", ":", "="),
        *("<", ">", r"\le", r"\cup", r"\in", r"\pm", r"\infty", r"\pi", "x", "y", "ab", "sin", "and", "or", "1", "23"),
        *(
            "4.5",
            ".",
            "9",
            " ",
            "+",
            "-",
            "*",
            "/",
            "e",
            "i",
            "f(",
            r"\sum_{k=1}^{9}",
            r"\int",
            r"\log_",
            "cm",
            "°",
            "½",
        ),
    ]
)


@given(st.lists(FRAGMENTS, max_size=25).map("".join))
@settings(max_examples=400)
def test_no_heap_of_mathematical_fragments_is_too_much(text):
    key = canonical(text)
    assert key == canonical(text)
    assert key is None or equivalent(text, text)


@given(st.text(alphabet=st.characters(codec=None), max_size=200))
@settings(max_examples=200)
def test_no_text_is_too_much(text):
    extract(text, final_answer=True, last_number=True)
    key = canonical(text)
    assert key is None or key.encode() is not None
