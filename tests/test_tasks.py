import json

import pytest

from ttrl_repro.errors import UserError
from ttrl_repro.tasks import has_fresh_split, load_task, task_names


@pytest.mark.parametrize("name", task_names())
def test_draws_are_reproducible_disjoint_and_held_out(name):
    train, fresh = load_task(name, 0), load_task(name, 0, "fresh")
    assert train == load_task(name, 0)
    kind, _, number = name.partition("-")
    size = (
        {"mini-choice": 198}.get(name)
        or {"transfer": 100, "phase": 60, "mix": 60, "level": 100}.get(kind)
        or int(number)
    )
    assert len(train.questions) == len(fresh.questions) == size
    # What is asked for, without the options of a choice: one expression with other options is no other question.
    problems, new, others = (
        [q.problem.partition("=")[0] for q in task.questions] for task in (train, fresh, load_task(name, 1))
    )
    assert len(set(problems)) == size
    assert not set(problems) & set(new)
    assert set(problems) != set(others)
    assert train.fingerprint() != load_task(name, 1).fingerprint()
    assert train.labelled


def test_mini_30_is_exposed_throughout():
    task = load_task("mini-30", 5)
    assert all(q.info["exposed"] and q.info["misread"] != q.answer for q in task.questions)
    assert [q.info["terms"] for q in task.questions] == [3] * 15 + [4] * 15


def test_levels_are_the_cells_of_the_large_set():
    whole = load_task("mini-500", 3).questions
    levels = [load_task(f"level-{name}", 3) for name in ("short", "long", "short-rare", "long-rare", "exposed")]
    assert [question for level in levels for question in level.questions] == list(whole)
    assert has_fresh_split("level-long")
    assert not {q.id for q in load_task("level-long", 3, "fresh").questions} & {q.id for q in whole}


def test_a_user_s_questions(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"problem": "1+1="}\n\n{"id": "b", "problem": "2+2=", "note": 1}\n')
    task = load_task(str(path))
    assert [(q.id, q.problem, q.answer) for q in task.questions] == [("1", "1+1=", None), ("b", "2+2=", None)]
    assert not task.labelled
    path.write_text('{"problem": "1+1=", "answer": 2}\n')
    assert load_task(str(path)).questions[0].answer == "2"
    # A byte-order mark, a line separator inside a string, and an id that is null.
    path.write_text('\ufeff{"problem": "a\u2028b", "id": null}\n', encoding="utf-8")
    assert [(q.id, q.problem) for q in load_task(str(path)).questions] == [("1", "a\u2028b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no questions"),
        ("{", "line 1: not valid JSON"),
        ("[]", "line 1: expected an object"),
        ('{"question": "x"}', "line 1: field 'problem'"),
        ('{"problem": " "}', "line 1: field 'problem'"),
        ('{"problem": "x", "answer": [1]}', "line 1: field 'answer'"),
        ('{"problem": "x", "answer": " "}', "line 1: field 'answer'"),
        ('{"problem": "x", "answer": NaN}', "line 1: field 'answer'"),
        ('{"problem": "x", "answer": true}', "line 1: field 'answer'"),
        ('{"problem": "x", "id": 1}\n{"problem": "y", "id": "1"}', "line 2: id '1' was used before, on line 1"),
        ('{"problem": "x", "answer": 1}\n{"problem": "y"}', "1 of 2 questions have no 'answer'"),
    ],
)
def test_bad_questions_are_refused_by_line(tmp_path, content, message):
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_task(str(path))


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read"):
        load_task(str(path))


def test_unknown_tasks(tmp_path):
    with pytest.raises(UserError, match="known: mini-30, mini-500, mini-83, mini-choice, "):
        load_task("aime")
    with pytest.raises(UserError, match="no such file"):
        load_task(str(tmp_path / "none.jsonl"))
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"problem": "1"}))
    with pytest.raises(UserError, match="no 'fresh' split"):
        load_task(str(path), 0, "fresh")
