import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.answer_pairs import DIFFERENT, SAME
from ttrl_repro.answers import canonical, canonical_all, equivalent, graded, same
from ttrl_repro.answers.canonical import _simple
from ttrl_repro.answers.guard import GUARD


@pytest.mark.parametrize(
    "written", ["25", "025", "+25", "25.0", "25.", "$25$", " 25 ", r"\boxed{25}", "#### 25", r"\$25"]
)
def test_ways_to_write_an_integer_have_one_key(written):
    assert canonical(written) == "25"


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        (None, None),
        ("", None),
        ("   ", None),
        ("$", None),
        ("...", None),  # nothing but dots
        ("0", "0"),
        ("-0", "0"),
        ("−5", "-5"),  # Unicode's minus
        ("٣", "3"),  # a digit of another script
        ("1,000", "1000"),
        ("(1,000)", "(1;0)"),  # in brackets a comma separates
        ("5,15", "{15;5}"),  # not a thousands separator
        (r"1{,}000", "1000"),
        ("142.0", "142"),
        ("0.50", "1/2"),
        (r"-\frac{2}{4}", "-1/2"),
        (r"1\frac{1}{2}", "3/2"),
        (r"0.\overline{3}", "1/3"),
        ("10%", "10%"),
        (r"\text{East}.", "text:east"),
        (r"\text{(C)}", "C"),
        ("x = 5", "5"),
        (r"\sqrt{2}", "~1.41421356237309504880168872421"),
        ("1+2i", "1+2i"),
        (r"\{2, 1\}", "{1;2}"),
        ("(2, 1)", "(2;1)"),
        ("[0, 1)", "[0;1)"),
        (r"0 \le x < 1", "[0;1)"),
        (r"(2,3)\cup(0,1]", "(0;1]U(2;3)"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "[[1;2];[3;4]]"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1;2)"),
        ("52_8", "52_8"),
        ("6:8", "1:4/3"),
        ("p = 5, q = 2", "<5;2>"),
        (r"\infty", "oo"),
        (r"\sum_{k=1}^{10} k", "55"),  # by math-verify
        (r"\int_0^1 x^2 dx", "1/3"),
        (r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}", "-2"),
    ],
)
def test_keys_of_every_kind(answer, key):
    assert canonical(answer) == key


def test_equal_answers():
    missed = [(a, b) for a, b in SAME if not (equivalent(a, b) and equivalent(b, a))]
    assert not missed


def test_different_answers():
    merged = [(a, b) for a, b in DIFFERENT if equivalent(a, b) or equivalent(b, a)]
    assert not merged


NUMBERS = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.integers(-(10**12), 10**12).map("{:,}".format),
    st.decimals(-(10**6), 10**6, allow_nan=False, places=4).map(str),
    st.tuples(st.integers(-999, 999), st.integers(1, 999)).map(lambda t: f"{t[0]}/{t[1]}"),
    st.tuples(st.integers(0, 999), st.integers(1, 999)).map(lambda t: rf"-\frac{{{t[0]}}}{{{t[1]}}}"),
)


@given(NUMBERS)
@settings(max_examples=200)
def test_numbers_read_at_a_glance_are_those_that_the_parser_reads(written):
    assert _simple(written) is not None
    assert _simple(written) == GUARD.read(written).key


@given(st.integers(-(10**15), 10**15), st.integers(-(10**15), 10**15))
def test_numbers_that_differ_never_have_one_key(a, b):
    assert (canonical(str(a)) == canonical(str(b))) == (a == b)
    assert equivalent(str(a), f"{b}.0") == (a == b)


COEFFICIENTS = st.lists(st.integers(-9, 9), min_size=1, max_size=4)


def polynomial(coefficients, order):
    terms = [f"({c})x^{{{n}}}" for n, c in enumerate(coefficients)]
    order.shuffle(terms)
    return "+".join(terms)


@given(COEFFICIENTS, COEFFICIENTS, st.randoms(use_true_random=False))
def test_polynomials_are_equal_if_their_coefficients_are(a, b, order: random.Random):
    width = max(len(a), len(b))
    padded = [c + [0] * (width - len(c)) for c in (a, b)]
    assert equivalent(polynomial(a, order), polynomial(b, order)) == (padded[0] == padded[1])


ANSWERS = st.sampled_from(
    [
        *("1/3", r"\frac13", "0.3333", "0.33333", "0.3334", "33.33%", "1", "2", "10%", "10", "0.1", "50%", "1/2"),
        *(r"\sqrt2", "1.4142", "1.41421", "x=1,y=2", "1,2", "2,1", "(1,2)", "52_8", "52", "A", "B", "x+1", None),
        *("(0.3333,1)", r"(\frac13,1)", r"\text{east}", "East", "{1,2}", "[1,2]", "[1,2)"),
    ]
)


@given(ANSWERS, ANSWERS)
def test_equivalence_is_symmetric_and_reflexive(a, b):
    assert equivalent(a, b) == equivalent(b, a)
    assert equivalent(a, a) == (a is not None)


@given(st.lists(ANSWERS, max_size=12), ANSWERS.filter(bool))
def test_grading_names_the_right_class_and_changes_no_other(answers, gold):
    gold_key, keys = canonical(gold), canonical_all(answers)
    blind = graded(keys, None)
    for answer, one, other in zip(answers, blind, graded(keys, gold_key), strict=True):
        if one != other:
            assert other == gold_key
            assert same(one, gold_key)
        if answer == gold:
            assert other == gold_key or canonical(answer) != one  # it was voted for as a fuller answer
    # Gold has no part in what the classes are.
    pairs = {(one, other) for one, other in zip(blind, graded(keys, gold_key), strict=True)}
    assert len({one for one, _ in pairs}) == len({other for _, other in pairs}) == len(pairs)


@given(st.text())
def test_every_text_has_a_short_key_that_can_be_stored(text):
    key = canonical(text)
    assert key == canonical(text)
    assert key is None or len(key.encode()) < 2000


def test_a_huge_integer_has_a_key_of_its_own():
    # int() refuses more than 4300 digits; keys must not.
    assert canonical("9" * 10_000) == canonical(" " + "9" * 10_000)
    assert canonical("9" * 10_000) != canonical("9" * 9_999 + "8")
