"""Keeps a lease while a run goes on: a thread of its own, so that a database that hangs cannot stop the clock.

`expired` turns true a safety margin before the lease ends by this process's own clock, counted from before the request
that renewed it. Whoever runs the cell ends it then, whatever the database may still answer: another agent can have the
cell only after the lease.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

from sqlalchemy.exc import DBAPIError

from ttrl_repro.sweeps.store import Claim, Lost, Store

RENEWALS = 5  # in a lease
MARGIN = 0.15  # share of the lease in which a run is ended before others may begin


class Keeper:
    """Renews a claim until it is left; `expired`, `lost` and `told_to_stop` say what came of it."""

    def __init__(self, store: Store, claim: Claim, stops: int, since: float) -> None:
        """since: `time.monotonic()` from before the claim was asked for."""
        self._store, self._claim, self._stops = store, claim, stops
        self._until = since + store.lease
        self._leave = threading.Event()
        self.lost = False
        self.told_to_stop = False
        self._thread = threading.Thread(target=self._run, name=f"lease of {claim.cell}", daemon=True)

    @property
    def expired(self) -> bool:
        """Whether the cell is not surely ours any more."""
        return self.lost or time.monotonic() > self._until - MARGIN * self._store.lease

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leave.set()  # it is a daemon: one that hangs in the database is not waited for

    def _run(self) -> None:
        while not self._leave.is_set():
            sent = time.monotonic()
            try:
                self._store.renew(self._claim)
                self._until = sent + self._store.lease
                self.told_to_stop = self._store.stops(patient=False) > self._stops
            except Lost:
                self.lost = True
                return
            except DBAPIError:
                pass  # away; `_until` stays as it is
            self._leave.wait(self._store.lease / RENEWALS)
