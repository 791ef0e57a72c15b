import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrl_repro.answers import classes, same
from ttrl_repro.answers.keys import exact, fits, graded

# Keys that are tangled on purpose: roundings of several numbers, percentages, lists and assignments.
KEYS = [
    *("1/3", "3333/10000", "33333/100000", "1667/5000", "~0.33330000123456789012", "3333/100%", "50%", "50", "1/2"),
    *("~1.4142135623730950488", "7071/5000", "141421/100000", "{1;2}", "(1;2)", "(2;1)", "<1;2>", "<2;1>", "10", "10%"),
    *("1/10", "52", "52_8", "52_9", "text:east", "fn:0123456789abcdef", "[1/3;1)", "[3333/10000;1)", "(1/3;1)", "oo"),
]


@pytest.mark.parametrize(
    ("weak", "strong"),
    [
        ("3333/10000", "1/3"),  # 0.3333
        ("1667/2500", "2/3"),  # 0.6668 is neither rounded nor cut: see below
        ("6667/10000", "2/3"),  # rounded
        ("3333/5000", "2/3"),  # cut: 0.6666
        ("7071/5000", "~1.4142135623730950488"),
        ("-7071/5000", "~-1.4142135623730950488"),
        ("10%", "10"),
        ("10%", "1/10"),
        ("52", "52_8"),
        ("{1;2}", "<2;1>"),  # a list has no order
        ("(1;2)", "<1;2>"),
        ("(3333/10000;1)", "(1/3;1)"),
        ("{3333/10000;6667/10000}", "{1/3;2/3}"),
    ],
)
def test_what_says_less_may_mean_more(weak, strong):
    assert fits(weak, strong) == (weak != "1667/2500")
    assert not fits(strong, weak)
    assert same(weak, strong) == same(strong, weak)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("33/100", "1/3"),  # too few digits to be a rounding
        ("7/5", "~1.4142135623730950488"),
        ("3333/10000", "33333/100000"),  # both are decimals
        ("9999/10000", "1"),
        ("(1;2)", "(2;1)"),
        ("(1;2)", "{1;2}"),
        ("[1;2)", "(1;2)"),
        ("{1;2}", "<1;3>"),
        ("(3333/10000;2/3)", "(1/3;6667/10000)"),  # each would be the rounding of a part of the other
        ("10%", "100"),
        ("52", "5_8"),
    ],
)
def test_what_does_not(a, b):
    assert not same(a, b)


def test_a_key_joins_the_only_fuller_one():
    assert classes(["3333/10000", "1/3", "2"]) == {"3333/10000": "1/3", "1/3": "1/3", "2": "2"}
    assert classes(["10%", "1/10"])["10%"] == "1/10"


def test_where_there_is_a_choice_nothing_is_merged():
    found = classes(["10%", "10", "1/10"])
    assert found == {"10%": "10%", "10": "10", "1/10": "1/10"}
    assert classes(["52", "52_8", "52_9"])["52"] == "52"


@given(st.lists(st.sampled_from(KEYS)), st.randoms(use_true_random=False))
def test_classes_do_not_depend_on_order_or_repetition(keys, order: random.Random):
    shuffled = keys + keys
    order.shuffle(shuffled)
    assert classes(keys) == classes(shuffled)


@given(st.lists(st.sampled_from(KEYS)))
def test_classes_are_a_partition_named_by_members_and_never_hold_two_exact_numbers(keys):
    found = classes(keys)
    assert set(found) == set(keys)
    for key, name in found.items():
        assert name in found
        assert found[name] == name
        # Merging only where both directions of `same` agree, step by step towards the fuller key.
        assert key == name or same(key, name) or any(same(key, other) for other in found if found[other] == name)
    for name in set(found.values()):
        unrounded = [k for k in found if found[k] == name and exact(k) is not None and exact(k).denominator % 3 == 0]
        assert len(unrounded) <= 1


@given(st.sampled_from(KEYS), st.sampled_from(KEYS))
def test_fitting_has_a_direction(a, b):
    assert not (fits(a, b) and fits(b, a))
    assert not fits(a, a)


def test_graded_names_the_gold_answer_whichever_way_it_is_said():
    assert graded(["3333/10000", "1/3", None, "2"], "1/3") == ["1/3", "1/3", None, "2"]
    assert graded(["1/3", "2"], "3333/10000") == ["3333/10000", "2"]
    # 0.3333 was voted for together with 1/3: right if either is.
    assert graded(["10%", "10"], "10") == ["10", "10"]
