"""Claims, leases and fencing tokens, on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from bench.postgres import Server, binaries
from ttrl_repro.errors import UserError
from ttrl_repro.sweeps import store as module
from ttrl_repro.sweeps.store import Lost, Store, sqlite_url

SPACE = {"method": "grid", "parameters": ["p"]}


@pytest.fixture(scope="module")
def server():
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    with Server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "sweep.db")
    return request.getfixturevalue("server").url


@pytest.fixture
def store(url, request):
    """An open sweep of three cells a, b, c whose leases are good for a minute."""
    store = Store(url, request.node.name, lease=60.0)
    store.open_sweep(SPACE)
    assert store.add((name, {"p": name}) for name in "abc") == 3
    yield store
    store.close()


def expire(store):
    """Let all leases run out, as when a minute has gone by."""
    with store.engine.begin() as db:
        db.execute(module._cells.update().where(module._cells.c.state == "running").values(lease_until=1.0))


def states(store):
    return {row.cell: row.state for row in store.cells()}


def test_cells_are_claimed_in_their_order_each_once(store):
    claims = [store.claim("one") for _ in range(4)]
    assert [claim and (claim.cell, claim.params, claim.token, claim.previous) for claim in claims] == [
        ("a", {"p": "a"}, 1, 0),
        ("b", {"p": "b"}, 1, 0),
        ("c", {"p": "c"}, 1, 0),
        None,
    ]
    assert store.counts() == {"waiting": 0, "running": 3, "finished": 0, "pruned": 0, "failed": 0}


def test_adding_again_adds_what_is_new(store):
    store.finish(store.claim("one"), 0.5, 1.0)
    assert store.add([("c", {"p": "c"}), ("d", {"p": "d"}), ("a", {"p": "a"})]) == 1
    assert [(row.cell, row.number, row.state) for row in store.cells()] == [
        ("a", 0, "finished"),
        ("b", 1, "waiting"),
        ("c", 2, "waiting"),
        ("d", 3, "waiting"),
    ]


def test_an_expired_lease_is_taken_over_first_with_a_higher_token(store):
    stale = store.claim("one")
    expire(store)
    taken = store.claim("two")
    assert (taken.cell, taken.token, taken.previous) == (stale.cell, 2, 1)
    assert store.cells(["a"])[0].takeovers == 1
    for late in (
        lambda: store.renew(stale),
        lambda: store.finish(stale, 1.0, 1.0),
        lambda: store.fail(stale, "why", 1.0, retries=3),
        lambda: store.release(stale, 1.0),
    ):
        with pytest.raises(Lost):
            late()
    store.renew(taken)
    store.finish(taken, 0.25, 2.0)
    assert [(row.state, row.value, row.seconds) for row in store.cells(["a"])] == [("finished", 0.25, 2.0)]
    with pytest.raises(Lost):
        store.renew(taken)


def test_a_renewed_lease_is_not_taken_over(store):
    first = store.claim("one")
    expire(store)
    store.renew(first)
    assert store.claim("two").cell == "b"


def test_failures_wait_behind_the_others_until_there_are_too_many(store):
    assert store.fail(store.claim("one"), "first", 1.0, retries=1)
    assert [store.claim("one").cell for _ in range(2)] == ["b", "c"]
    again = store.claim("one")
    assert (again.cell, again.token, again.previous) == ("a", 2, 1)
    assert not store.fail(again, "second", 1.5, retries=1)
    (row,) = store.cells(["a"])
    assert (row.state, row.failures, row.error, row.seconds) == ("failed", 2, "second", 2.5)
    assert store.claim("one") is None
    with pytest.raises(UserError, match=r"no failed cell of .*: b, x$"):
        store.retry(["a", "b", "x"])
    assert store.retry(["a"]) == 1
    assert store.claim("one").token == 3, "tokens never go back"


def test_a_cell_given_back_waits_and_has_not_failed(store):
    store.release(store.claim("one"), 4.0)
    (row,) = store.cells(["a"])
    assert (row.state, row.failures, row.takeovers, row.seconds) == ("waiting", 0, 0, 4.0)


def test_a_cell_whose_agents_all_die_is_given_up(store, monkeypatch):
    monkeypatch.setattr(module, "TAKEOVERS", 2)
    for _ in range(3):
        last = store.claim("one")
        assert last.cell == "a"
        expire(store)
    assert store.claim("one").cell == "b", "and the others go on"
    (row,) = store.cells(["a"])
    assert (row.state, row.error) == ("failed", "its agents died 3 times: it may be what kills them")
    with pytest.raises(Lost):
        store.finish(last, 0.5, 1.0)


class Flaky:
    """The store's engine, whose connection is cut after the next commits: they happened, and nobody was told."""

    def __init__(self, engine, cuts):
        self.engine, self.cuts = engine, cuts

    def begin(self):
        outer = self

        class Transaction:
            def __enter__(self):
                self.inner = outer.engine.begin()
                return self.inner.__enter__()

            def __exit__(self, *error):
                self.inner.__exit__(*error)
                if outer.cuts and error[0] is None:
                    outer.cuts -= 1
                    raise OperationalError("commit", {}, Exception("server closed the connection"))

        return Transaction()


@pytest.mark.parametrize(
    "write",
    [
        lambda store, claim: store.finish(claim, 0.5, 3.0),
        lambda store, claim: store.fail(claim, "why", 3.0, retries=0),
        lambda store, claim: store.fail(claim, "why", 3.0, retries=1),
        lambda store, claim: store.release(claim, 3.0),
    ],
)
def test_a_write_whose_answer_got_lost_is_the_same_write_twice(store, write):
    said = write(store, store.claim("one"))
    before = store.cells()
    with store.engine.begin() as db:
        db.execute(module._cells.delete())
    store.add((name, {"p": name}) for name in "abc")
    engine, store.engine = store.engine, Flaky(store.engine, cuts=0)
    store.engine.cuts = 1
    claim = store.claim("one")
    assert (claim.cell, claim.token, claim.previous) == ("a", 1, 0), "the claim that was made, and no other"
    store.engine.cuts = 1
    assert write(store, claim) == said
    store.engine = engine
    assert [(r.state, r.token, r.failures, r.seconds, r.value, r.error) for r in store.cells()] == [
        (r.state, r.token, r.failures, r.seconds, r.value, r.error) for r in before
    ]


def test_an_impatient_renewal_tells_that_nobody_answers(store):
    claim = store.claim("one")
    engine, store.engine = store.engine, Flaky(store.engine, cuts=10**6)
    with pytest.raises(OperationalError):
        store.renew(claim)
    store.engine = engine


def drain(url, sweep, queue):
    store = Store(url, sweep)
    while (claim := store.claim("agent")) is not None:
        queue.put((claim.cell, claim.token))
        store.finish(claim, 0.0, 0.0)
    queue.put(None)


def test_processes_that_claim_at_once_never_share_a_cell(store):
    store.add((f"cell-{i}", {"p": i}) for i in range(60))
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    agents = [spawn.Process(target=drain, args=(store.url, store.sweep, queue)) for _ in range(4)]
    for agent in agents:
        agent.start()
    got, ended = [], 0
    while ended < 4:
        item = queue.get(timeout=60)
        ended += item is None
        got += [item] if item is not None else []
    for agent in agents:
        agent.join()
    assert sorted(got) == sorted((row.cell, 1) for row in store.cells())
    assert len(got) == 63


def test_agents_that_start_at_once_enqueue_a_grid_once(url, request):
    def start(_):
        store = Store(url, request.node.name)
        store.open_sweep(SPACE)
        return store.add((f"cell-{i}", {"p": i}) for i in range(50))

    with ThreadPoolExecutor(8) as threads:
        added = list(threads.map(start, range(8)))
    assert sorted(added) == [0] * 7 + [50]
    numbers = [row.number for row in Store(url, request.node.name).cells()]
    assert numbers == list(range(50))


def test_the_lock_lets_one_in_and_frees_itself_when_its_holder_is_gone(store):
    inside, most = 0, 0

    def work(_):
        nonlocal inside, most
        with store.lock():
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert most == 1
    with store.lock(seconds=0.2) as frozen, store.lock() as taken:
        with pytest.raises(Lost):
            store.propose("d", {"p": "d"}, 3, frozen)
        assert store.propose("d", {"p": "d"}, 3, taken)
        assert store.propose("d", {"p": "d"}, 3, taken), "the same proposal again, as after a lost answer"
        assert not store.propose("d", {"p": "d"}, 4, taken), "another trial with that cell"
    assert store.cells(["d"])[0].trial == 3


def test_another_space_under_the_same_name_is_refused(store):
    store.open_sweep(SPACE)
    with pytest.raises(UserError, match=r'holds another sweep .*: its parameters is \["p"\], this one\'s \["q"\]'):
        store.open_sweep({**SPACE, "parameters": ["q"]})
    assert len(store.cells()) == 3


def test_stop_is_seen_by_those_that_run_now(store):
    before = store.stops()
    store.stop()
    assert store.stops() == before + 1


def test_sweeps_of_one_storage_do_not_mix(url, store):
    other = Store(url, "other")
    other.open_sweep(SPACE)
    other.add([("a", {"p": "a"})])
    assert other.claim("one").cell == "a"
    assert other.claim("one") is None
    assert states(store) == {"a": "waiting", "b": "waiting", "c": "waiting"}
    with other.engine.begin() as db:  # the server is shared by the tests of this file
        for table in (module._cells, module._sweeps):
            db.execute(table.delete().where(table.c.sweep == "other"))


def test_a_server_that_restarts_is_waited_for():
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    with Server() as server:
        store = Store(server.url, "restarted")
        store.open_sweep(SPACE)
        store.add([("a", {"p": "a"})])
        claim = store.claim("one")
        server.stop()
        back = threading.Timer(1.0, server.start)
        back.start()
        store.finish(claim, 0.5, 1.0)
        assert states(store) == {"a": "finished"}
        back.join()
        store.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql+psycopg://nobody:secret@127.0.0.1:1/x", r"storage postgresql\+psycopg://nobody:\*\*\*@127.0.0.1:1/x"),
        ("nonsense", "storage 'nonsense': Could not parse SQLAlchemy URL"),
        ("oracle+nothing://x", r"storage oracle\+nothing://x: Can't load plugin"),
        ("sqlite://", "storage sqlite://: is in memory, of one process alone; give a file"),
        ("sqlite:////proc/nowhere/sweep.db", "cannot be used .unable to open database file"),
    ],
)  # fmt: skip
def test_a_storage_that_cannot_be_reached_is_named_without_its_password(url, message):
    with pytest.raises(UserError, match=message) as refused:
        Store(url, "sweep")
    assert "secret" not in str(refused.value)


def test_ten_thousand_cells_are_enqueued_and_read_in_moments(url, request):
    store = Store(url, request.node.name)
    store.open_sweep(SPACE)
    assert store.add((f"cell-{i}", {"p": i, "q": "x" * 40}) for i in range(10_000)) == 10_000
    assert store.claim("one").cell == "cell-0"
    assert len(store.cells()) == 10_000
    assert sa.inspect(store.engine).get_indexes("ttrl_cells")[0]["column_names"] == ["sweep", "state", "number"]


def test_a_full_disk_is_said_at_once_and_what_was_written_stays(tmp_path):
    store = Store(sqlite_url(tmp_path / "sweep.db"), "full")
    store.open_sweep(SPACE)
    store.add([("a", {"p": "a"})])

    @sa.event.listens_for(store.engine, "connect")
    def _(connection, _record):
        (pages,) = connection.execute("pragma page_count").fetchone()
        connection.execute(f"pragma max_page_count = {pages}")

    store.engine.dispose()
    began = time.monotonic()
    with pytest.raises(OperationalError, match="disk is full"):
        store.add([(f"cell{number}", {"p": "x" * 1000}) for number in range(100)])
    assert time.monotonic() - began < 10
    assert [row.cell for row in store.cells()] == ["a"]
