"""What to try next: Optuna proposes the cells of `random` and `bayes`, and ends runs that are behind.

The database of cells is the truth; the study follows it. Proposals and outcomes are written under the sweep's lock, so
that whatever is RUNNING in the study without a cell is of an agent that died in between, and is failed at once: no
trial stays RUNNING. A sampler is made anew for every proposal, seeded by the sweep's seed and the trial's number:
agents that are restarted do not propose again what they proposed before.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.exc import DBAPIError, OperationalError

from ttrl_repro.errors import UserError, one_line
from ttrl_repro.sweeps.files import Choice, Range, SweepFile
from ttrl_repro.sweeps.store import (
    ENDED,
    FAILED,
    FINISHED,
    PRUNED,
    CellRow,
    Claim,
    Lost,
    Store,
    engine_options,
    shown,
)

TRIES = 100  # proposals in a row that are no valid experiment, or are there already
CELL = "cell"  # user attribute of a trial: its key
MARK = "ttrl_sweep"  # user attribute of our studies
EXHAUSTED = "ttrl_exhausted"  # user attribute of a study that proposes nothing new
STATES = {FINISHED: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}

T = TypeVar("T")

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def differences(sweep: SweepFile) -> list[str]:
    """Where Optuna's methods are not W&B's, as far as the sweep is concerned; a line each."""
    lines = []
    if sweep.method == "bayes":
        lines.append("bayes: Optuna's TPE, with pending trials taken for bad ones; W&B fits a Gaussian process")
    if sweep.method == "random":
        lines.append("random: the same distributions, other numbers than W&B's; a cell drawn twice runs once")
    if sweep.early_terminate is not None:
        lines.append("early_terminate: asynchronous successive halving at min_iter * eta^k steps, as W&B's hyperband")
    return lines


class Search:
    """The Optuna study that proposes a sweep's cells. Raises UserError where its storage cannot be used."""

    def __init__(self, store: Store, sweep: SweepFile, url: str, seed: int = 0) -> None:
        assert sweep.metric is not None
        self.store, self.sweep, self.url, self.seed = store, sweep, url, seed
        self.metric = sweep.metric.name
        self.stops_early = sweep.early_terminate is not None
        self.distributions = {name: distribution(space) for name, space in sweep.parameters.items()}
        with store.lock():  # Optuna makes its tables in several steps
            self.study = self._patiently(self._opened)

    def _opened(self) -> optuna.Study:
        assert self.sweep.metric is not None
        study = optuna.create_study(
            storage=optuna.storages.RDBStorage(self.url, engine_kwargs=engine_options(self.url)),
            study_name=self.sweep.name,
            direction="maximize" if self.sweep.metric.maximize else "minimize",
            load_if_exists=True,
            pruner=_pruner(self.sweep),
        )
        if MARK not in study.user_attrs:
            if study.get_trials(deepcopy=False):
                raise UserError(f"storage {shown(self.url)}: has a study {self.sweep.name!r} of somebody else's")
            study.set_user_attr(MARK, self.sweep.name)
        return study

    # -- proposing -----------------------------------------------------------------------------------

    def propose(self) -> bool:
        """Whether there is a new cell: enqueue one more, unless the sweep has all of its cells.

        Raises UserError if no proposal is a valid experiment.
        """
        try:
            with self.store.lock() as holder:
                return self._patiently(lambda: self._propose(holder))
        except Lost:  # we were too slow, and another agent has the lock
            return True

    def _propose(self, holder: str) -> bool:
        self._follow()
        rows = self.store.cells()
        assert self.sweep.run_cap is not None
        if len(rows) >= min(self.sweep.run_cap, self._size()) or self.study.user_attrs.get(EXHAUSTED):
            return False
        invalid = 0
        for _ in range(TRIES):
            self.study.sampler = self._sampler(len(self.study.get_trials(deepcopy=False)))
            trial = self.study.ask(self.distributions)
            try:
                cell = self.sweep.cell(self._params(trial.params))
            except UserError as error:
                invalid, reason = invalid + 1, str(error)
                trial.set_user_attr("invalid", reason)
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            trial.set_user_attr(CELL, cell.key)
            if self.store.propose(cell.key, cell.params, trial.number, holder):
                return True
            # A cell that is there already is not run again: the same seeds would give the same value. Nor is it told
            # twice, or the sampler would take it for twice the evidence.
            self.study.tell(trial, state=TrialState.FAIL)
        if invalid == TRIES:
            raise UserError(
                f"{self.sweep.path}: {TRIES} proposals in a row were no valid experiment; the last: {reason}"
            )
        self.study.set_user_attr(EXHAUSTED, True)
        print(f"{self.sweep.name}: {TRIES} proposals in a row were there already; it ends at {len(rows)} cells")
        return False

    def _size(self) -> float:
        """How many cells the space holds."""
        return math.prod(map(_values, self.distributions.values()))

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = int.from_bytes(hashlib.sha256(f"{self.seed}/{number}".encode()).digest()[:4], "big")
        if self.sweep.method == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)

    def _params(self, proposed: Mapping[str, Any]) -> dict[str, Any]:
        """Proposed values as the file lists them."""
        params = {}
        for name, value in proposed.items():
            space = self.sweep.parameters[name]
            listed = space.values if isinstance(space, Choice) else ()
            params[name] = next((given for given in listed if choice(given) == value), value)
        return params

    # -- early stopping ------------------------------------------------------------------------------

    def report(self, claim: Claim, values: Mapping[int, float]) -> bool:
        """Tell the study a running cell's metric by step; returns whether the cell should end here.

        Without an answer nothing ends: the next report says all again. Nor does a cell that failed and was retried: its
        trial has ended, and Optuna's trials end once.
        """
        try:
            trial = self._trial(claim)
            if trial.state.is_finished():
                return False
            live = Trial(self.study, trial._trial_id)
            for step, value in sorted(values.items()):
                if step not in trial.intermediate_values:  # reported before, or before the cell was taken over
                    live.report(value, step)
                    if live.should_prune():
                        return True
        except (DBAPIError, StorageInternalError, UpdateFinishedTrialError):
            return False
        return False

    def behind(self, claim: Claim) -> bool:
        """Whether the run that the claim takes over should have ended at what it reported last."""
        if not self.stops_early:
            return False
        trial = self._patiently(lambda: self._trial(claim))
        live = Trial(self.study, trial._trial_id)
        return not trial.state.is_finished() and bool(trial.intermediate_values) and self._patiently(live.should_prune)

    def _trial(self, claim: Claim) -> FrozenTrial:
        assert claim.trial is not None
        return self.study.get_trials(deepcopy=False)[claim.trial]

    # -- following -----------------------------------------------------------------------------------

    def follow(self) -> None:
        """Bring the study up to what the cells say: outcomes that it was not told, trials that nobody runs."""
        with self.store.lock():
            self._patiently(self._follow)

    def _follow(self) -> None:
        rows = self.store.cells()
        trials = self.study.get_trials(deepcopy=False)
        known = {row.trial for row in rows}
        for trial in trials:
            if not trial.state.is_finished() and trial.number not in known:
                self._tell(trial, FAILED, None)
        for row in rows:
            if row.state in ENDED and not row.told:
                assert row.trial is not None
                self.store.mark_told(row, self._told(trials[row.trial], row))

    def _told(self, trial: FrozenTrial, row: CellRow) -> int:
        """Tell the outcome of a cell; the number of the trial that has it."""
        if not trial.state.is_finished():
            self._tell(trial, row.state, row.value)
            return trial.number
        if trial.state == STATES[row.state]:  # told by an agent that died before it wrote that down
            return trial.number
        # It failed, was told so, and was retried: Optuna's trials end once.
        self.study.add_trial(
            create_trial(
                state=STATES[row.state],
                value=row.value if row.state == FINISHED else None,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={CELL: row.cell},
            )
        )
        return max(t.number for t in self.study.get_trials(deepcopy=False) if t.user_attrs.get(CELL) == row.cell)

    def _tell(self, trial: FrozenTrial, state: str, value: float | None) -> None:
        try:
            if state == FINISHED:
                self.study.tell(trial.number, value)
            else:
                self.study.tell(trial.number, state=STATES[state])
        except UpdateFinishedTrialError:
            return  # by an agent whose lock ran out, and who said the same

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do something with the study; while the server is away, again and again. Raises UserError at last."""
        until = time.monotonic() + self.store.patience
        while True:
            try:
                return work()
            except (OperationalError, StorageInternalError) as error:
                if time.monotonic() > until:
                    raise UserError(
                        f"storage {shown(self.url)}: the study does not answer ({one_line(error)})"
                    ) from error
            time.sleep(1.0)


def export_grid(sweep: SweepFile, rows: list[CellRow], url: str) -> int:
    """Write the ended cells of a grid as an Optuna study, for its dashboard, in place of an earlier one.

    Returns the number of trials. Raises UserError for a sweep without a metric.
    """
    if sweep.metric is None:
        raise UserError(f"{sweep.path}: metric: missing; a study needs one")
    storage = optuna.storages.RDBStorage(url, engine_kwargs=engine_options(url))
    if sweep.name in {summary.study_name for summary in optuna.get_all_study_summaries(storage)}:
        if MARK not in optuna.load_study(study_name=sweep.name, storage=storage).user_attrs:
            raise UserError(f"storage {shown(url)}: has a study {sweep.name!r} of somebody else's")
        optuna.delete_study(study_name=sweep.name, storage=storage)
    study = optuna.create_study(
        storage=storage, study_name=sweep.name, direction="maximize" if sweep.metric.maximize else "minimize"
    )
    study.set_user_attr(MARK, sweep.name)
    distributions = {name: distribution(space) for name, space in sweep.parameters.items()}
    trials = [
        create_trial(
            state=STATES[row.state],
            value=row.value if row.state == FINISHED else None,
            params={name: choice(value) for name, value in row.params.items()},
            distributions=distributions,
            user_attrs={CELL: row.cell},
        )
        for row in rows
        if row.state in ENDED
    ]
    study.add_trials(trials)
    return len(trials)


def distribution(space: Range | Choice) -> BaseDistribution:
    """A parameter's space as Optuna has it."""
    if isinstance(space, Choice):
        return CategoricalDistribution([choice(value) for value in space.values])
    if space.integer:
        return IntDistribution(int(space.low), int(space.high))
    return FloatDistribution(space.low, space.high, log=space.log, step=space.step)


def _values(space: BaseDistribution) -> float:
    """How many values a parameter can take."""
    if isinstance(space, CategoricalDistribution):
        return len(space.choices)
    assert isinstance(space, IntDistribution | FloatDistribution)
    if space.step is None:
        return math.inf if space.low < space.high else 1
    return math.floor((space.high - space.low) / space.step + 1e-9) + 1


def choice(value: Any) -> Any:
    """A listed value as Optuna can keep it: mappings and lists as JSON."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def _pruner(sweep: SweepFile) -> optuna.pruners.BasePruner:
    if sweep.early_terminate is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=sweep.early_terminate.min_iter,
        reduction_factor=int(sweep.early_terminate.eta),
        bootstrap_count=0,
    )
