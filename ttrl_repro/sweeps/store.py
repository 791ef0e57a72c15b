"""The cells of a sweep in a database: which there are, and who runs which.

A claim is a lease with a fencing token. Claiming is one transaction; it raises the cell's `token`, and every later
write names the token that it was made under. An agent that was frozen beyond its lease finds its token stale, whatever
it tries to write (Lost). Time is the database's, so that clocks of agents do not matter (of SQLite the machine's). A
write whose answer got lost with the connection is repeated, and is the same write twice.

SQLite: a file, for several agents on one machine (not on network file systems). PostgreSQL and MySQL: many machines.
Imports no torch and no Optuna.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError

from ttrl_repro.errors import UserError, one_line

WAITING, RUNNING, FINISHED, PRUNED, FAILED = "waiting", "running", "finished", "pruned", "failed"
ENDED = (FINISHED, PRUNED, FAILED)
TAKEOVERS = 20  # a cell whose agents died so often is taken for what kills them
LEASE = 60.0
PATIENCE = 300.0  # seconds for which a server may be away (a restart) before an agent gives up

_tables = sa.MetaData()
_sweeps = sa.Table(
    "ttrl_sweeps",
    _tables,
    sa.Column("sweep", sa.String(190), primary_key=True),
    sa.Column("space", sa.Text, nullable=False),
    sa.Column("stops", sa.Integer, nullable=False, default=0),  # how often all agents were told to end
    sa.Column("lock_holder", sa.String(40)),
    sa.Column("lock_until", sa.Double, nullable=False, default=0.0),
)
_cells = sa.Table(
    "ttrl_cells",
    _tables,
    sa.Column("sweep", sa.String(190), primary_key=True),
    sa.Column("cell", sa.String(190), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("params", sa.Text, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("token", sa.Integer, nullable=False, default=0),  # of the newest claim; 0: never claimed
    sa.Column("claim", sa.String(40)),
    sa.Column("owner", sa.String(190)),
    sa.Column("lease_until", sa.Double, nullable=False, default=0.0),
    sa.Column("failures", sa.Integer, nullable=False, default=0),
    sa.Column("takeovers", sa.Integer, nullable=False, default=0),
    sa.Column("error", sa.Text),
    sa.Column("value", sa.Double),
    sa.Column("trial", sa.Integer),  # Optuna's number; null: not in the study yet
    sa.Column("told", sa.Boolean, nullable=False, default=False),  # whether the study knows its outcome
    sa.Column("started", sa.Double),
    sa.Column("ended", sa.Double),
    sa.Column("seconds", sa.Double, nullable=False, default=0.0),  # of claims that ended, not of those that were lost
    sa.Index("ttrl_cells_by_state", "sweep", "state", "number"),
)

T = TypeVar("T")


class Lost(Exception):
    """The lease ran out and another agent has the cell: nothing that this one writes counts any more."""


@dataclass(frozen=True)
class Claim:
    """A cell that an agent may run until its lease ends. previous: the token of the claim before it, 0 if none."""

    cell: str
    params: Mapping[str, Any]
    token: int
    previous: int
    trial: int | None


@dataclass(frozen=True)
class CellRow:
    """A cell as it stands in the database; times in seconds since 1970, `seconds` of its claims that were not lost."""

    cell: str
    number: int
    params: Mapping[str, Any]
    state: str
    token: int
    owner: str | None
    lease_until: float
    failures: int
    takeovers: int
    error: str | None
    value: float | None
    trial: int | None
    told: bool
    started: float | None
    ended: float | None
    seconds: float


def sqlite_url(path: Path) -> str:
    """The URL of a database in a file."""
    return f"sqlite:///{path}"


class Store:
    """The cells of one sweep. Raises UserError where the database cannot be reached.

    lease: seconds for which a claim is good, without being renewed. patience: see PATIENCE.
    """

    def __init__(self, url: str, sweep: str, lease: float = LEASE, patience: float = PATIENCE) -> None:
        self.url, self.sweep, self.lease, self.patience = url, sweep, lease, patience
        try:
            self.engine = _engine(url)
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
            raise UserError(f"storage {shown(url)}: {one_line(error)}") from error
        try:
            _create_tables(self.engine)
        except DBAPIError as error:
            raise UserError(f"storage {shown(url)}: cannot be used ({one_line(error.orig)})") from error

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    # -- what there is -----------------------------------------------------------------------------

    def open_sweep(self, space: Mapping[str, Any]) -> None:
        """Start the sweep, or find it. Raises UserError if it is there with another space."""

        def transaction(db: sa.Connection) -> str:
            found = db.execute(sa.select(_sweeps.c.space).where(_sweeps.c.sweep == self.sweep)).scalar()
            if found is None:
                db.execute(_sweeps.insert().values(sweep=self.sweep, space=json.dumps(space), stops=0, lock_until=0.0))
            return json.dumps(space) if found is None else found

        try:
            found = json.loads(self._do(transaction))
        except IntegrityError:  # another agent was first
            found = json.loads(self._do(transaction))
        for key in {**found, **space}:
            if found.get(key) != json.loads(json.dumps(space.get(key))):
                raise UserError(
                    f"storage {shown(self.url)} holds another sweep {self.sweep!r}: its {key} is "
                    f"{json.dumps(found.get(key))}, this one's {json.dumps(space.get(key))}; give this one another name"
                )

    def known(self) -> bool:
        """Whether the sweep is in the storage."""
        query = sa.select(_sweeps.c.sweep).where(_sweeps.c.sweep == self.sweep)
        return self._do(lambda db: db.execute(query).scalar()) is not None

    def add(self, cells: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """Enqueue the cells that are not there yet, in their order; returns how many were added."""
        wanted = list(cells)

        def transaction(db: sa.Connection) -> int:
            _hold_sweep(db, self.sweep)  # one at a time, or two would give the same numbers
            there = set(db.execute(sa.select(_cells.c.cell).where(_cells.c.sweep == self.sweep)).scalars())
            first = db.execute(sa.select(sa.func.max(_cells.c.number)).where(_cells.c.sweep == self.sweep)).scalar()
            number = -1 if first is None else first
            rows = [
                self._new_row(cell, params, number + i)
                for i, (cell, params) in enumerate(((c, p) for c, p in wanted if c not in there), start=1)
            ]
            if rows:
                db.execute(_cells.insert(), rows)
            return len(rows)

        return self._do(transaction)

    def propose(self, cell: str, params: Mapping[str, Any], trial: int, holder: str) -> bool:
        """Enqueue a cell that a search proposes, under the lock of `holder`; False if it is there already.

        Raises Lost if the lock is not the holder's any more.
        """

        def transaction(db: sa.Connection) -> bool:
            _hold_sweep(db, self.sweep)
            held = db.execute(sa.select(_sweeps.c.lock_holder).where(_sweeps.c.sweep == self.sweep)).scalar()
            if held != holder:
                raise Lost(f"{self.sweep}: the lock is {held}'s")
            mine = self._this(cell)
            if (found := db.execute(sa.select(_cells.c.trial).where(mine)).first()) is not None:
                return bool(found[0] == trial)
            number = db.execute(
                sa.select(sa.func.count()).select_from(_cells).where(_cells.c.sweep == self.sweep)
            ).scalar_one()
            db.execute(_cells.insert().values(**self._new_row(cell, params, number), trial=trial))
            return True

        return self._do(transaction)

    def _new_row(self, cell: str, params: Mapping[str, Any], number: int) -> dict[str, Any]:
        row = {"sweep": self.sweep, "cell": cell, "number": number, "params": json.dumps(params), "state": WAITING}
        return {**row, "token": 0, "lease_until": 0.0, "failures": 0, "takeovers": 0, "told": False, "seconds": 0.0}

    def cells(self, only: Sequence[str] | None = None) -> list[CellRow]:
        """All cells, or these, in their order."""
        columns = [_cells.c[name] for name in CellRow.__dataclass_fields__]
        query = sa.select(*columns).where(_cells.c.sweep == self.sweep).order_by(_cells.c.number)
        if only is not None:
            query = query.where(_cells.c.cell.in_(only))
        rows = self._do(lambda db: db.execute(query).mappings().all())
        return [CellRow(**{**row, "params": json.loads(row["params"])}) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many cells are in each state."""
        query = sa.select(_cells.c.state, sa.func.count()).where(_cells.c.sweep == self.sweep).group_by(_cells.c.state)
        found = dict(self._do(lambda db: [tuple(row) for row in db.execute(query)]))
        return {state: found.get(state, 0) for state in (WAITING, RUNNING, *ENDED)}

    def now(self) -> float:
        """The database's time."""
        return self._do(_now)

    # -- leases ------------------------------------------------------------------------------------

    def claim(self, owner: str) -> Claim | None:
        """Take a cell for a lease: one whose agent is gone, or the first that waits. None if there is none."""
        name = uuid.uuid4().hex

        def transaction(db: sa.Connection) -> Claim | None:
            now = _now(db)
            mine = db.execute(sa.select(_cells).where(_cells.c.sweep == self.sweep, _cells.c.claim == name)).first()
            if mine is not None:  # this transaction was carried out before, and its answer got lost
                return _claim(mine, mine.token - 1)
            free = sa.or_(_cells.c.state == WAITING, sa.and_(_cells.c.state == RUNNING, _cells.c.lease_until < now))
            query = (
                sa.select(_cells)
                .where(_cells.c.sweep == self.sweep, free)
                .order_by(_cells.c.state, _cells.c.failures, _cells.c.number)  # `running` before `waiting`
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            while (row := db.execute(query).first()) is not None:
                takeovers = row.takeovers + (row.state == RUNNING)
                if takeovers > TAKEOVERS:
                    error = f"its agents died {takeovers} times: it may be what kills them"
                    given_up = {"state": FAILED, "error": error, "ended": now, "token": row.token + 1}
                    db.execute(_cells.update().where(self._this(row.cell)).values(**given_up))
                    continue
                values = {"state": RUNNING, "token": row.token + 1, "claim": name, "owner": owner}
                values |= {"takeovers": takeovers, "lease_until": now + self.lease, "started": row.started or now}
                db.execute(_cells.update().where(self._this(row.cell)).values(**values))
                return _claim(row, row.token)
            return None

        return self._do(transaction)

    def renew(self, claim: Claim) -> None:
        """Keep a claim for another lease from now. Raises Lost, or DBAPIError at once if nobody answers."""

        def transaction(db: sa.Connection) -> int:
            held = sa.and_(self._this(claim.cell), _cells.c.token == claim.token, _cells.c.state == RUNNING)
            return db.execute(_cells.update().where(held).values(lease_until=_now(db) + self.lease)).rowcount

        if self._do(transaction, patience=0.0) == 0:
            raise Lost(claim.cell)

    def finish(self, claim: Claim, value: float | None, seconds: float, state: str = FINISHED) -> None:
        """The cell is done, with the metric's value. Raises Lost."""
        self._end(claim, seconds, state=state, value=value, error=None)

    def fail(self, claim: Claim, error: str, seconds: float, retries: int) -> bool:
        """The cell failed. Whether it waits again, which it does until it failed `retries` times. Raises Lost."""

        def again(row: Any) -> bool:
            return bool(row.failures < retries)

        def values(row: Any) -> dict[str, Any]:
            return {"failures": row.failures + 1, "error": error, "state": WAITING if again(row) else FAILED}

        before = self._end(claim, seconds, values)
        return again(before) if before.state == RUNNING else bool(before.state == WAITING)

    def release(self, claim: Claim, seconds: float) -> None:
        """Give the cell back unfinished, which is no failure. Raises Lost."""
        self._end(claim, seconds, state=WAITING)

    def _end(
        self, claim: Claim, seconds: float, values: Callable[[Any], Mapping[str, Any]] | None = None, **fixed: Any
    ) -> Any:
        """End a claim; returns the row as it was. The name of the claim stays, so that a repetition is recognised."""

        def transaction(db: sa.Connection) -> Any:
            row = db.execute(
                sa.select(_cells).where(self._this(claim.cell), _cells.c.token == claim.token).with_for_update()
            ).first()
            if row is None:
                return None
            if row.state == RUNNING:
                change = {**(values(row) if values else fixed), "lease_until": 0.0, "owner": None}
                if change["state"] in ENDED:
                    change["ended"] = _now(db)
                change["seconds"] = row.seconds + seconds
                db.execute(_cells.update().where(self._this(claim.cell)).values(**change))
            return row

        row = self._do(transaction)
        if row is None:
            raise Lost(claim.cell)
        return row

    def _this(self, cell: str) -> sa.ColumnElement[bool]:
        return sa.and_(_cells.c.sweep == self.sweep, _cells.c.cell == cell)

    # -- what people ask for -------------------------------------------------------------------------

    def retry(self, cells: Sequence[str] = ()) -> int:
        """Let failed cells wait again, all or these; returns how many. Raises UserError for one that has not failed."""
        failed = sa.and_(_cells.c.sweep == self.sweep, _cells.c.state == FAILED)
        if cells:
            failed = sa.and_(failed, _cells.c.cell.in_(cells))
        values = {"state": WAITING, "failures": 0, "takeovers": 0, "ended": None, "told": False}
        other = set(cells) - {row.cell for row in self.cells(cells) if row.state == FAILED} if cells else set()
        if other:
            raise UserError(f"no failed cell of {self.sweep}: {', '.join(sorted(other))}")
        return self._do(lambda db: db.execute(_cells.update().where(failed).values(**values)).rowcount)

    def stop(self) -> None:
        """Tell all agents that run now to give their cells back and to end."""
        more = _sweeps.update().where(_sweeps.c.sweep == self.sweep).values(stops=_sweeps.c.stops + 1)
        self._do(lambda db: db.execute(more))

    def stops(self, patient: bool = True) -> int:
        """How often `stop` was called: an agent ends when it grows. Raises DBAPIError as `renew`."""
        query = sa.select(_sweeps.c.stops).where(_sweeps.c.sweep == self.sweep)
        return self._do(lambda db: db.execute(query).scalar_one(), self.patience if patient else 0.0)

    # -- the study's lock ------------------------------------------------------------------------------

    @contextmanager
    def lock(self, seconds: float = 30.0) -> Iterator[str]:
        """Hold the right to change the Optuna study, for at most `seconds`; yields the holder's name."""
        holder = uuid.uuid4().hex

        def take(db: sa.Connection) -> bool:
            now = _now(db)
            mine = sa.or_(_sweeps.c.lock_until < now, _sweeps.c.lock_holder == holder)
            free = sa.and_(_sweeps.c.sweep == self.sweep, mine)
            values = {"lock_holder": holder, "lock_until": now + seconds}
            return db.execute(_sweeps.update().where(free).values(**values)).rowcount == 1

        while not self._do(take):
            time.sleep(0.05)
        try:
            yield holder
        finally:
            mine = sa.and_(_sweeps.c.sweep == self.sweep, _sweeps.c.lock_holder == holder)
            self._do(lambda db: db.execute(_sweeps.update().where(mine).values(lock_until=0.0)))

    def mark_told(self, row: CellRow, trial: int) -> None:
        """The study has this outcome of the cell, as this trial; nothing, if the cell has gone on since."""
        same = sa.and_(self._this(row.cell), _cells.c.token == row.token, _cells.c.state == row.state)
        self._do(lambda db: db.execute(_cells.update().where(same).values(told=True, trial=trial)))

    # -- transactions ----------------------------------------------------------------------------------

    def _do(self, transaction: Callable[[sa.Connection], T], patience: float | None = None) -> T:
        """Carry out a transaction; while the server is away, again and again. All of ours may be repeated."""
        until = time.monotonic() + (self.patience if patience is None else patience)
        pause = 0.1
        told = False
        while True:
            try:
                with self.engine.begin() as db:
                    return transaction(db)
            except DBAPIError as error:
                # A server that restarts: refused, cut off, "starting up"; two transactions that waited for one another.
                full = "disk is full" in str(error.orig)  # SQLite's; waiting frees none
                away = (isinstance(error, OperationalError) and not full) or error.connection_invalidated
                if not away or time.monotonic() > until:
                    raise
                if not told and pause > 1.0:
                    print(f"storage {shown(self.url)}: {one_line(error.orig)}; trying again", file=sys.stderr)
                    told = True
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def _claim(row: Any, previous: int) -> Claim:
    return Claim(row.cell, json.loads(row.params), previous + 1, previous, row.trial)


def _hold_sweep(db: sa.Connection, sweep: str) -> None:
    db.execute(sa.select(_sweeps.c.sweep).where(_sweeps.c.sweep == sweep).with_for_update())


def _now(db: sa.Connection) -> float:
    clocks = {"postgresql": "extract(epoch from clock_timestamp())", "mysql": "unix_timestamp(now(6))"}
    clock = clocks.get(db.dialect.name)
    return time.time() if clock is None else float(db.execute(sa.text(f"select {clock}")).scalar_one())


def engine_options(url: str) -> dict[str, Any]:
    """What connections to a database are made with. A server that is gone without a word is noticed in 20 seconds."""
    backend = sa.make_url(url).get_backend_name()
    if backend == "sqlite":
        return {"connect_args": {"timeout": 20.0}}
    if backend == "postgresql":
        limits = {"connect_timeout": 10, "tcp_user_timeout": 20_000, "options": "-c statement_timeout=20000"}
        return {"pool_pre_ping": True, "connect_args": limits}
    return {"pool_pre_ping": True}


def _engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(url, **engine_options(url))
    if parsed.database in (None, "", ":memory:"):
        raise UserError(f"storage {url}: is in memory, of one process alone; give a file")
    engine = sa.create_engine(url, **engine_options(url))

    # Python's sqlite3 would begin a transaction only at its first write, and then could not get the lock in time.
    @sa.event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("pragma journal_mode = wal")

    @sa.event.listens_for(engine, "begin")
    def _(connection: sa.Connection) -> None:
        connection.exec_driver_sql("begin immediate")

    return engine


def _create_tables(engine: sa.Engine) -> None:
    try:
        _tables.create_all(engine)
    except (IntegrityError, OperationalError, ProgrammingError):
        # Another agent may have been creating them at the same time.
        if not all(sa.inspect(engine).has_table(table) for table in _tables.tables):
            raise


def shown(url: str) -> str:
    """The URL without its password."""
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return repr(url)
