import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrl_repro.answers import extract, extraction


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
        (r"\\boxed{4}", "4"),  # escaped once too often, as after JSON
        (r"\bbox{5} {6}", None),
        (r"\boxed{}", None),  # an empty box is no answer
        (r"\boxed{ } \boxed{7} \boxed{}", "7"),
        ("the answer is 42", None),  # no fallback to a number in the text
        ("", None),
        ("}}}}{{{{", None),
    ],
)
def test_boxes(text, expected):
    assert extract(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So the final answer is 7.", "7"),
        ("Final answer: -3.5", "-3.5"),
        (r"**Answer:** $\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
        (r"The answer is \(5x+1\)! Great.", "5x+1"),
        ("the answer is 1. No: the answer is 2", "2"),  # the last one
        ("We do not know.", None),
        (r"\boxed{3} so the answer is 4", "3"),  # a box always comes first
    ],
)
def test_final_answer_is_a_switch(text, expected):
    assert extract(text, final_answer=True) == expected
    if r"\boxed" not in text:
        assert extract(text) is None


def test_the_last_number_is_taken_only_if_asked_for_and_says_so():
    text = "First 3 apples, then 1,200.5 of them, then"
    assert extract(text) is None
    assert extract(text, final_answer=True) is None
    found = extraction(text, last_number=True)
    assert (found.answer, found.how) == ("1,200.5", "last_number")
    assert extraction(r"\boxed{1} 2", last_number=True).how == "box"
    assert extraction("the answer is 9", final_answer=True, last_number=True).how == "final_answer"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{C}", "C"),
        (r"\boxed{C. Neon}", "C"),
        (r"\boxed{\textbf{(D)}}", "D"),
        (r"\boxed{\text{(B) } 12}", "B"),
        (r"\boxed{Carbon}", None),  # a word is not its first letter
        (r"\boxed{F}", None),  # not one of the choices
        (r"first \boxed{A}, then on reflection \boxed{B}", "B"),
        ("the answer is a trick question", None),  # the article is not option A (released TTRL code: it is)
        ("so the final answer is: D", "D"),
        ("The answer is (C).", "C"),
    ],
)
def test_multiple_choice_is_a_mode(text, expected):
    assert extract(text, mode="choice", final_answer=True) == expected


def test_other_letters_can_be_the_choices():
    assert extract(r"\boxed{G}", mode="choice", choices="ABCDEFGHIJ") == "G"


@given(st.text(alphabet=r"\{}boxed f1 ", max_size=60))
def test_an_answer_is_a_stripped_part_of_the_text_or_none(text):
    answer = extract(text)
    assert answer is None or (answer in text and answer == answer.strip() != "")


@given(st.text(max_size=40))
def test_an_answer_can_be_written_as_utf_8(inside):
    answer = extract(rf"\boxed{{{inside}}}")
    assert answer is None or answer.encode() is not None


def test_what_cannot_be_stored_is_replaced():
    assert extract("\\boxed{4\ud8002\0}") == "4?2"


@pytest.mark.parametrize("piece", [r"\boxed{", "\\", "{", "}", r"\boxed{}", "answer is ", "$", "1,"])
def test_time_is_linear_in_hostile_text(piece):
    # A scan from each of 100,000 pieces to the end would take 10^10 steps, which is minutes.
    extract(piece * 100_000, final_answer=True, last_number=True)
