"""Leases are kept while the database answers, and a run is told in time when it does not."""

from __future__ import annotations

import threading
import time

import pytest

from ttrl_repro.sweeps.keeper import Keeper
from ttrl_repro.sweeps.store import Lost, Store, sqlite_url

LEASE = 1.0


@pytest.fixture
def store(tmp_path):
    store = Store(sqlite_url(tmp_path / "sweep.db"), "sweep", lease=LEASE)
    store.open_sweep({})
    store.add([("a", {}), ("b", {})])
    yield store
    store.close()


def test_a_lease_is_renewed_for_as_long_as_it_is_kept(store):
    since = time.monotonic()
    claim = store.claim("one")
    with Keeper(store, claim, store.stops(), since) as keeper:
        time.sleep(2.5 * LEASE)
        assert not keeper.expired
        assert store.claim("two").cell == "b"
        store.stop()
        time.sleep(LEASE / 2)
        assert keeper.told_to_stop
    store.finish(claim, None, 1.0)


def test_a_database_that_hangs_cannot_keep_a_run_beyond_its_lease(store, monkeypatch):
    hanging = threading.Event()
    monkeypatch.setattr(store, "renew", lambda _: hanging.wait(10))
    since = time.monotonic()
    claim = store.claim("one")
    with Keeper(store, claim, 0, since) as keeper:
        while not keeper.expired:
            time.sleep(0.01)
        assert time.monotonic() - since < LEASE
        assert store.claim("two").cell == "b", "nobody else can have it yet"
    hanging.set()


def test_what_another_agent_has_is_lost(store):
    since = time.monotonic()
    claim = store.claim("one")
    time.sleep(1.2 * LEASE)
    assert store.claim("two").cell == claim.cell
    with Keeper(store, claim, 0, since) as keeper:
        time.sleep(0.2)
        assert keeper.lost
        assert keeper.expired
    with pytest.raises(Lost):
        store.finish(claim, None, 1.0)
