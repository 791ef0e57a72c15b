import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrl_repro.answers import extract
from ttrl_repro.errors import UserError
from ttrl_repro.miniature.corpus import MAX_COMPLETION, Corpus, completion_text, documents, with_slips
from ttrl_repro.miniature.expressions import Expression, Operators, acceptable, draw_expression, held_out
from ttrl_repro.miniature.problems import KINDS, draw_problem, of_expression, of_numbers
from ttrl_repro.miniature.recipes import load_recipe, recipe_names
from ttrl_repro.miniature.tokenizer import EOS, IDS, VOCABULARY, encode_completion, encode_prompt
from ttrl_repro.seeds import generator

EVEN = Operators(plus=1, minus=1, times=1, remainder=1)
EXPRESSIONS = st.builds(
    lambda seed, terms, brackets: draw_expression(generator(seed), terms, EVEN, brackets=brackets),
    st.integers(0, 10**6),
    st.integers(2, 6),
    st.booleans(),
)
PROBLEMS = st.builds(
    lambda seed, kind, terms, largest: draw_problem(generator(seed), kind, terms, EVEN, largest),
    st.integers(0, 10**6),
    st.sampled_from(KINDS),
    st.integers(2, 6),
    st.sampled_from((99, 999)),
)


def test_the_two_readings():
    expression = Expression((7, 3, 4, 2), "+*-")
    assert str(expression) == "7+3*4-2"
    assert expression.value() == 17
    assert expression.value(left_to_right=True) == 38
    assert expression.exposed
    assert expression.steps(False) == [(3, "*", 4, 12), (7, "+", 12, 19), (19, "-", 2, 17)]
    assert expression.steps(True) == [(7, "+", 3, 10), (10, "*", 4, 40), (40, "-", 2, 38)]


def test_a_bracket_comes_first_in_both_readings():
    expression = Expression((7, 3, 4, 2), "+-*", bracket=1)
    assert str(expression) == "7+(3-4)*2"
    assert expression.steps(False) == [(3, "-", 4, -1), (-1, "*", 2, -2), (7, "+", -2, 5)]
    assert expression.steps(True) == [(3, "-", 4, -1), (7, "+", -1, 6), (6, "*", 2, 12)]
    assert expression.chain == "7+3-4*2"


@given(EXPRESSIONS)
def test_gold_values_are_python_s(expression):
    # eval is safe here: the text comes from the generator. Python's % and * share a precedence, as ours do.
    assert expression.value() == eval(str(expression))
    assert acceptable(expression)


def test_one_expression_in_every_kind():
    rng, expression = generator(0), Expression((47, 36, 7), "+*")
    plain, words, marked = (of_expression(expression, kind, rng) for kind in ("plain", "words", "marked"))
    assert (plain.prompt, plain.right.answer, plain.misread.answer) == ("47+36*7=", "299", "581")
    assert (words.prompt, words.right, words.misread) == ("47plus36times7=", plain.right, plain.misread)
    # Marked, left to right is right.
    assert (marked.prompt, marked.right, marked.misread) == ("~47+36*7=", plain.misread, plain.right)
    assert plain.content == words.content == marked.content == "47+36*7"
    choice = of_expression(expression, "choice", rng)
    question, _, options = choice.prompt.removesuffix("=").partition("=?")
    values = {letter: value for value, letter in (option.split(":") for option in options.split(","))}
    assert question == "47+36*7"
    assert list(values) == list("ABCD")
    assert len(set(values.values())) == 4
    assert (values[choice.right.answer], values[choice.misread.answer]) == ("299", "581")
    assert choice.right.steps == f"{plain.right.steps}:{choice.right.answer}"


def test_the_largest():
    problem = of_numbers((47, 36, 81))
    assert (problem.prompt, problem.right.steps, problem.right.answer) == ("max(47,36,81)=", "47>36;47<81", "81")
    assert not problem.exposed
    assert problem.content == of_numbers((81, 36, 47)).content  # in any order it is one question


@given(st.integers(0, 10**6), st.integers(2, 3))
def test_options_do_not_tell_which_reading_is_right(seed, terms):
    problem = draw_problem(generator(seed), "choice", terms, EVEN)
    values = {o[-1]: int(o[:-2]) for o in problem.prompt.partition("=?")[2].removesuffix("=").split(",")}
    assert list(values) == list("ABCD")
    assert len(set(values.values())) == 4
    assert values[problem.right.answer] == problem.right.value
    assert values[problem.misread.answer] == problem.misread.value
    # Every option has exactly one within ten, its slip or what it is a slip of, unless the two results lie that close.
    near = [sum(abs(a - b) < 10 for b in values.values()) - 1 for a in values.values()]
    assert near == [1, 1, 1, 1] or abs(problem.right.value - problem.misread.value) < 30


@given(PROBLEMS, st.booleans())
def test_completions_are_right_in_their_own_reading(problem, misread):
    reading = problem.misread if misread else problem.right
    for style in ("stepwise", "direct"):
        text = completion_text(problem, misread, style)
        assert extract(text) == reading.answer
        encode_completion(text, MAX_COMPLETION, ends=True)  # raises if it does not fit
    run_on = completion_text(problem, misread, "run_on")
    assert extract(run_on) is None
    assert len(run_on) > MAX_COMPLETION
    for step in run_on.split(";"):  # even the steps that nobody asked for are right
        left, equals, right = step.partition("=")
        assert eval(left) == int(right.partition(":")[0]) if equals else eval(left)
    assert len(encode_prompt(problem.prompt)) + MAX_COMPLETION <= 160  # the models' positions


def test_slips_are_an_ablation_of_steps_alone():
    text = "36*7=252;47+252=299;\\boxed{299}"
    assert with_slips(text, 0.0, generator(0)) == text
    first, second, box = with_slips(text, 1.0, generator(0)).split(";")
    assert int(first.removeprefix("36*7=")) - 252 in (-10, -1, 1, 10)
    assert int(second.removeprefix("47+252=")) - 299 in (-10, -1, 1, 10)
    assert box == "\\boxed{299}"


def test_slips_in_every_kind():
    kinds = dict.fromkeys(KINDS, 1.0)
    corpus = Corpus(tokens=5_000, terms={3: 1}, misconception={3: 0.5}, kinds=kinds, slips=1.0)
    assert len(documents(corpus, 0)) > 50


def test_choices_are_misread_by_their_own_number_of_terms(tokenizer):
    corpus = Corpus(tokens=60_000, terms={6: 1}, misconception={3: 0.0, 6: 1.0}, kinds={"choice": 1.0}, declared=1.0)
    texts = [tokenizer.decode(doc.completion_ids) for doc in documents(corpus, 0)]
    assert any(text.startswith("rule;") for text in texts)
    assert not any(text.startswith("order;") for text in texts)


def test_the_corpus_follows_its_dials_and_keeps_held_out_expressions_out(tokenizer):
    corpus = Corpus(
        tokens=60_000,
        terms={2: 0.5, 3: 0.5},
        misconception={3: 0.5},
        stepwise=0.6,
        direct=0.3,
        run_on=0.1,
    )
    docs = documents(corpus, seed=3)
    texts = [tokenizer.decode(d.prompt_ids + d.completion_ids, skip_special_tokens=True) for d in docs]
    assert sum(len(d.prompt_ids) + len(d.completion_ids) for d in docs) == pytest.approx(60_000, abs=100)
    styles, readings, exposed = Counter(), Counter(), 0
    for text, doc in zip(texts, docs, strict=True):
        written, _, completion = text.partition("=")
        answer = extract(text)
        styles["run_on" if answer is None else "direct" if "=" not in completion else "stepwise"] += 1
        assert (answer is None) == (doc.completion_ids[-1] != IDS[EOS])
        assert len(doc.completion_ids) <= MAX_COMPLETION
        operators = "".join(c for c in written if c in "+-*%")
        numbers = tuple(int(n) for n in written.translate(str.maketrans("+-*%", "    ")).split())
        expression = Expression(numbers, operators)
        assert not held_out(expression.chain)
        if answer is not None and expression.exposed:
            exposed += 1
            readings["gold" if int(answer) == expression.value() else "other"] += 1
            assert int(answer) in (expression.value(), expression.value(left_to_right=True))
    n = len(docs)
    assert n > 1500
    for style, share in (("stepwise", 0.6), ("direct", 0.3), ("run_on", 0.1)):
        assert styles[style] / n == pytest.approx(share, abs=0.05)
    assert exposed > 100
    assert readings["other"] / exposed == pytest.approx(0.5, abs=0.12)


def test_the_corpus_is_a_function_of_its_seed():
    corpus = Corpus(tokens=2_000, terms={3: 1}, misconception={3: 0.3})
    assert documents(corpus, 1) == documents(corpus, 1)
    assert documents(corpus, 1) != documents(corpus, 2)


def test_the_corpus_mixes_kinds_and_marks_are_never_misread(tokenizer):
    kinds = {"plain": 1.0, "words": 1.0, "brackets": 1.0, "choice": 1.0, "marked": 1.0, "largest": 1.0}
    corpus = Corpus(tokens=60_000, terms={3: 1}, misconception={3: 1.0}, kinds=kinds, large_numbers=0.5)
    found, large = Counter(), 0
    for doc in documents(corpus, 0):
        prompt = tokenizer.decode(doc.prompt_ids, skip_special_tokens=True)
        answer = extract(tokenizer.decode(doc.completion_ids, skip_special_tokens=True))
        marks = {"words": "mtp", "brackets": "(", "choice": "?", "marked": "~", "largest": "x"}
        kind = (
            "largest"
            if "max" in prompt
            else next((k for k, m in marks.items() if any(c in prompt for c in m)), "plain")
        )
        found[kind] += 1
        large += any(len(number) == 3 for number in re.findall(r"\d+", prompt.partition("?")[0]))
        if kind == "marked" and answer is not None:
            operators = "".join(c for c in prompt if c in "+-*%")
            numbers = tuple(int(n) for n in re.findall(r"\d+", prompt))
            assert int(answer) == Expression(numbers, operators).value(left_to_right=True)
    assert set(found) == set(KINDS)
    assert max(found.values()) < 1.4 * min(found.values())
    assert 0.35 < large / found.total() < 0.55


def test_both_tokenizers_agree(tokenizer):
    for text in (
        "47+36*7=",
        r"36*7=252;47+252=299;\boxed{-299}",
        "~(4mod36)times7plus1minus2=",
        "max(4,5)=",
        "=?A:1,B:2=",
        "4<5>3",
    ):
        assert tokenizer(text).input_ids == encode_prompt(text)
        ids = encode_completion(text, 90, ends=True)
        assert tokenizer.decode(ids) == text + EOS
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("7a").input_ids[-1] == tokenizer.unk_token_id
    assert len(tokenizer) == len(VOCABULARY)


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_load_and_have_the_size_they_say(name):
    from ttrl_repro.miniature.pretrain import build_model

    recipe = load_recipe(name)
    assert recipe.name == name
    assert build_model(recipe.architecture, 0).num_parameters() == recipe.architecture.parameters()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("description: x\n", "architecture: Field required"),
        ("misconception: {3: 2}", r"shares must lie in \[0, 1\]"),
        ("surprise: 1\n", "surprise"),
    ],
)
def test_bad_recipes_are_refused(tmp_path, change, message):
    good = "name: x\ndescription: x\n"
    architecture = "architecture: {hidden_size: 8, layers: 1, heads: 1, kv_heads: 1, intermediate_size: 8}\n"
    corpus = "corpus: {tokens: 10, terms: {3: 1}, misconception: {3: 0}}\n"
    if change.startswith("misconception"):
        text = good + architecture + corpus.replace("misconception: {3: 0}", change)
    elif change.startswith("surprise"):
        text = good + architecture + corpus + change
    else:
        text = good + corpus
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_recipe(str(path))


def test_unknown_recipe():
    with pytest.raises(UserError, match="known: mini-"):
        load_recipe("mini-xxl")
