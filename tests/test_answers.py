import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrl_repro.answers import canonical, extract


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{ 42 }", "42"),
        (r"\boxed {42}", "42"),
        (r"\fbox{42}", "42"),
        (r"\boxed{1} then \boxed{2}", "2"),  # the last one counts
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),  # braces nest
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),  # escaped braces are text
        (r"\boxed{\{}", r"\{"),
        (r"\boxed{1} and \boxed{2", "1"),  # truncated: the last complete box
        (r"\boxed{2", None),
        (r"\boxed{2\}", None),
        (r"\boxed{\boxed{3}}", r"\boxed{3}"),  # the outer box is the later one to close
        (r"\bbox{5} {6}", None),
        (r"\boxed{}", None),  # an empty box is no answer
        (r"\boxed{ } \boxed{7} \boxed{}", "7"),
        ("the answer is 42", None),  # no fallback to a number in the text
        ("", None),
        ("}}}}{{{{", None),
    ],
)
def test_extract(text, expected):
    assert extract(text) == expected


@given(st.text(alphabet=r"\{}boxed f1 ", max_size=60))
def test_extract_returns_a_stripped_part_of_the_text_or_none(text):
    answer = extract(text)
    assert answer is None or (answer in text and answer == answer.strip() != "")


def test_extract_is_linear_on_hostile_text():
    # 100,000 boxes that never close: a scan from each of them would take 10^10 steps.
    assert extract(r"\boxed{" * 100_000) is None
    assert extract(r"\boxed{" * 50_000 + "1" + "}" * 50_000) is not None


@pytest.mark.parametrize("written", ["25", "025", "+25", "25.0", "25.", "$25$", " 25 "])
def test_ways_to_write_an_integer_have_one_key(written):
    assert canonical(written) == "25"


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("1,000", "1000"),
        (r"1{,}000", "1000"),
        (r"1\,234\,567", "1234567"),
        ("1,00", "1,00"),  # not a thousands separator
        ("2, 100", "2, 100"),  # a pair, not 2100
        ("1 2", "1 2"),
        ("- 7", "-7"),
        ("10,00,000", "10,00,000"),
        ("-0", "0"),
        ("-007", "-7"),
        ("−7", "-7"),  # the Unicode minus sign
        ("0.5", "0.5"),
        ("x  =  1", "x = 1"),
        ("$", "$"),
        ("$$", None),
        ("   ", None),
        (None, None),
        ("٣", "٣"),  # other scripts' digits are not read as integers
    ],
)
def test_canonical(answer, key):
    assert canonical(answer) == key


@given(st.integers())
def test_integers_that_differ_have_different_keys(number):
    assert canonical(str(number)) == str(number)
    assert canonical(str(number + 1)) != canonical(str(number))


@given(st.text())
def test_a_key_is_its_own_key(text):
    key = canonical(text)
    assert key is None or canonical(key) == key


def test_a_huge_integer_has_a_key():
    # int() refuses more than 4300 digits; keys must not.
    assert canonical("0" * 10 + "9" * 10_000) == "9" * 10_000
