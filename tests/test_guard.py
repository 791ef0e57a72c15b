"""The guarded worker: limits, deaths, threads, forks. One that misbehaves is in misbehaving_worker.py."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from ttrl_repro.answers import canonical, outcome
from ttrl_repro.answers.guard import Guard, GuardError


@pytest.fixture
def guard():
    made = Guard()
    yield made
    made.close()


def test_it_reads_answers_and_counts_what_came_of_them(guard):
    assert guard.read("x+1").key == guard.read("1+x").key
    assert guard.read("east").key is None
    assert guard.outcomes == {"parsed": 2, "text": 1}


def test_a_computation_that_never_ends_is_interrupted_in_its_worker():
    with closing(Guard(seconds=0.3)) as slow:
        assert slow.read(r"\sum_{k=1}^{10^{9}} \frac{1}{k^{k}+1}") == (None, "parse_timeout")
        assert slow.restarts == 0
        assert slow.read("2+2").key == "4"


def test_what_is_read_does_not_depend_on_what_was_read_before():
    # SymPy's cache would make a second integral of a kind faster than the first, and so in time.
    texts = [rf"\int_0^1 x^{{{n}}} \sin(x) dx" for n in range(2, 5)]
    with closing(Guard(seconds=20)) as fresh, closing(Guard(seconds=20)) as used:
        assert [used.read(text) for text in texts][-1] == fresh.read(texts[-1])
        assert fresh.outcomes == {"parsed": 1}


def test_an_interrupted_question_does_not_shift_the_replies(guard, monkeypatch):
    assert guard.read("1+1").key == "2"

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(guard, "_line", interrupted)
        with pytest.raises(KeyboardInterrupt):
            guard.read("1+2")
    assert guard.read("1+3").key == "4"  # not the reply to 1+2


def test_a_machine_without_processes_is_told_in_one_line(monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    with pytest.raises(GuardError, match="cannot be started"):
        Guard().read("1+1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("loop", "parse_timeout"), ("sleep", "parse_timeout"), ("die", "parse_error"), ("memory", "parse_error")],
)
def test_a_worker_that_misbehaves_is_replaced(text, expected):
    # loop: does not return to Python's signal handlers; sleep: uses no processor time; die: kills itself.
    with closing(Guard(seconds=0.3, patience=4.0, memory=400 << 20, module="tests.misbehaving_worker")) as bad:
        assert bad.read("fine").key == "fine"
        assert bad.read(text) == (None, expected)
        assert bad.read("fine").key == "fine"
        assert bad.outcomes == {"parsed": 2, expected: 1}


def test_a_broken_math_verify_is_an_error_of_the_installation_not_of_answers():
    with (
        closing(Guard(module="tests.misbehaving_worker")) as broken,
        pytest.raises(GuardError, match="cannot use math-verify"),
    ):
        broken.read("import")


def test_a_worker_killed_between_two_answers_is_started_again(guard):
    assert guard.read("1+1").key == "2"
    os.kill(guard._process.pid, signal.SIGKILL)
    time.sleep(0.2)
    assert guard.read("1+2").key == "3"
    assert guard.outcomes["parse_error"] == 0


def test_a_worker_that_cannot_start_is_an_error_of_the_installation():
    broken = Guard(module="tests.no_such_worker")
    with pytest.raises(GuardError, match="ends at once"):
        broken.read("1+1")


def test_it_works_off_the_main_thread_and_from_many_at_once(guard):
    found = {}
    threads = [threading.Thread(target=lambda i=i: found.setdefault(i, guard.read(f"{i}+{i}").key)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: str(2 * i) for i in range(20)}


def _read_in_child(queue):
    queue.put((canonical("3+4"), canonical(r"\sqrt{9}+1")))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_has_a_worker_of_its_own(method):
    assert canonical("5+6") == "11"  # this process has one already
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=60) == ("7", "4")
    finally:
        child.terminate()
        child.join()
    assert canonical("6+7") == "13"


def test_nothing_is_left_when_the_process_ends():
    script = (
        "from ttrl_repro.answers import canonical; from ttrl_repro.answers.guard import GUARD;"
        "canonical('1+1'); print(GUARD._process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    time.sleep(0.2)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_the_worker_ends_with_its_owner_even_if_that_is_killed():
    script = (
        "import os, signal; from ttrl_repro.answers import canonical; from ttrl_repro.answers.guard import GUARD;"
        "canonical('1+1'); print(GUARD._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    worker = int(done.stdout)
    for _ in range(100):
        state = Path(f"/proc/{worker}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its owner")


def test_outcomes_belong_to_answers():
    # The second time it comes from the cache, and counts again.
    assert [outcome("x+1"), outcome("x+1"), outcome("12"), outcome("north")] == ["parsed", "parsed", "parsed", "text"]


def test_the_worker_can_write_no_file(tmp_path):
    script = (
        "from ttrl_repro.answers.worker import limit; limit(1 << 30)\n"
        f"with open({str(tmp_path / 'file')!r}, 'w') as file: file.write('x' * 10)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert not (tmp_path / "file").exists() or (tmp_path / "file").read_bytes() == b""
