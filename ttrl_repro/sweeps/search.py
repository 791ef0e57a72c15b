"""What to try next, by Optuna, and the study in which its dashboard shows a sweep.

The database of cells is the truth; the study follows it. It is changed under the sweep's lock alone, so that whatever
is RUNNING there without a cell is of an agent that died in between, and is failed at once: no trial stays RUNNING. A
sampler is made anew for every proposal, seeded by the sweep's seed and the trial's number: agents that are restarted do
not propose again what they proposed before.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from ttrl_repro.errors import UserError
from ttrl_repro.sweeps.files import Cell, Choice, Range, SweepFile
from ttrl_repro.sweeps.store import ENDED, FAILED, FINISHED, PRUNED, CellRow, Claim, Lost, Store, sqlite_url

TRIES = 100  # proposals in a row that are no valid experiment, or are there already
CELL = "cell"  # user attribute of a trial: its key
STATES = {FINISHED: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}

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
        lines.append(
            "early_terminate: a run is compared as soon as it reaches a rung; W&B's does so at its next report"
        )
    return lines


class Study:
    """The Optuna study of a sweep that has a metric."""

    def __init__(self, store: Store, sweep: SweepFile, url: str, seed: int = 0) -> None:
        assert sweep.metric is not None
        self.store, self.sweep, self.seed = store, sweep, seed
        self.distributions = {name: _distribution(space) for name, space in sweep.parameters.items()}
        self._storage = optuna.storages.RDBStorage(url)
        with store.lock():
            self.study = self._created()
            if sweep.method == "grid":
                self._forget_other_values()

    def _created(self) -> optuna.Study:
        assert self.sweep.metric is not None
        return optuna.create_study(
            storage=self._storage,
            study_name=self.sweep.name,
            direction="maximize" if self.sweep.metric.maximize else "minimize",
            load_if_exists=True,
            pruner=_pruner(self.sweep),
        )

    def _forget_other_values(self) -> None:
        """A grid that was given more values: Optuna takes no others for a parameter, so its mirror begins anew."""
        trials = self.study.get_trials(deepcopy=False)
        if trials and trials[0].distributions != self.distributions:
            optuna.delete_study(study_name=self.sweep.name, storage=self._storage)
            self.study = self._created()
            self.store.forget_told()

    # -- proposing -----------------------------------------------------------------------------------

    def propose(self) -> bool:
        """Enqueue one more cell; False if the sweep has all of its cells. Raises UserError if no new one is found."""
        with self.store.lock() as holder:
            self._reconcile()
            rows = self.store.cells()
            size = self.sweep.size()
            if size is not None and len(rows) >= size:
                return False
            reason = ""
            for _ in range(TRIES):
                self.study.sampler = self._sampler(len(self.study.get_trials(deepcopy=False)))
                trial = self.study.ask(self.distributions)
                try:
                    cell = self.sweep.cell(_params(trial.params))
                except UserError as error:
                    reason = str(error)
                    trial.set_user_attr("invalid", reason)
                    self.study.tell(trial, state=TrialState.FAIL)
                    continue
                trial.set_user_attr(CELL, cell.key)
                if self.store.propose(cell.key, cell.params, trial.number, holder):
                    return True
                reason = f"{cell.key} is there already"
                self._tell_twin(trial, cell, rows)
            raise UserError(f"{self.sweep.path}: {TRIES} proposals in a row gave no new cell; the last: {reason}")

    def _tell_twin(self, trial: Trial, cell: Cell, rows: list[CellRow]) -> None:
        """A cell that is there already is not run again: the same seeds would give the same value."""
        twin = next(row for row in rows if row.cell == cell.key)
        if twin.state == FINISHED and twin.value is not None:
            self.study.tell(trial, twin.value)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = int.from_bytes(hashlib.sha256(f"{self.seed}/{number}".encode()).digest()[:4], "big")
        if self.sweep.method == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)

    # -- early stopping ------------------------------------------------------------------------------

    def report(self, claim: Claim, values: Mapping[int, float]) -> bool:
        """Tell the study a running cell's metric by step; returns whether the cell should end here.

        Raises Lost if the trial has ended: the cell is another agent's.
        """
        if self.sweep.early_terminate is None or claim.trial is None:
            return False
        with self.store.lock():
            self.store.renew(claim, patient=True)
            trial = self._trial(claim.trial)
            if trial.state.is_finished():
                raise Lost(claim.cell)
            live = Trial(self.study, trial._trial_id)
            for step, value in sorted(values.items()):
                if step not in trial.intermediate_values:  # reported before the cell was taken over
                    live.report(value, step)
                    if live.should_prune():
                        return True
        return False

    # -- following -----------------------------------------------------------------------------------

    def reconcile(self) -> None:
        """Bring the study up to what the cells say: outcomes that it was not told, trials that nobody runs."""
        with self.store.lock():
            self._reconcile()

    def _reconcile(self) -> None:
        rows = self.store.cells()
        trials = self.study.get_trials(deepcopy=False)
        known = {row.trial for row in rows if row.trial is not None}
        for trial in trials:
            if trial.state in (TrialState.RUNNING, TrialState.WAITING) and trial.number not in known:
                self._tell(trial, FAILED, None)
        by_cell = {trial.user_attrs[CELL]: trial for trial in trials if CELL in trial.user_attrs}
        for row in rows:
            if row.state not in ENDED or row.told:
                continue
            if self.sweep.method == "grid":
                trial = by_cell.get(row.cell) or self._added(row)
            else:
                assert row.trial is not None
                trial = trials[row.trial]
                if not trial.state.is_finished():
                    self._tell(trial, row.state, row.value)
            self.store.mark_told(row.cell, trial.number)

    def _tell(self, trial: FrozenTrial, state: str, value: float | None) -> None:
        if state == FINISHED and value is not None:
            self.study.tell(trial.number, value)
        else:
            self.study.tell(trial.number, state=TrialState.PRUNED if state == PRUNED else TrialState.FAIL)

    def _added(self, row: CellRow) -> FrozenTrial:
        """A grid's cell as a trial that has ended."""
        params = {name: _choice(value) for name, value in row.params.items()}
        state = STATES[row.state] if row.value is not None else TrialState.FAIL
        self.study.add_trial(
            create_trial(
                state=state,
                value=row.value if state == TrialState.COMPLETE else None,
                params=params,
                distributions=self.distributions,
                user_attrs={CELL: row.cell},
            )
        )
        return self.study.get_trials(deepcopy=False)[-1]

    def _trial(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]


def study_url(storage: str | None, folder: Path) -> str:
    """Where the Optuna study is: on the server, or in a file of its own beside the cells'."""
    return storage if storage is not None else sqlite_url(folder / "study.db")


def _distribution(space: Range | Choice) -> BaseDistribution:
    if isinstance(space, Choice):
        return CategoricalDistribution([_choice(value) for value in space.values])
    if space.integer:
        return IntDistribution(int(space.low), int(space.high))
    return FloatDistribution(space.low, space.high, log=space.log, step=space.step)


def _choice(value: Any) -> Any:
    """A listed value as Optuna can keep it: mappings and lists as JSON."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def _params(params: Mapping[str, Any]) -> dict[str, Any]:
    """`_choice` undone."""
    return {
        name: json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value
        for name, value in params.items()
    }


def _pruner(sweep: SweepFile) -> optuna.pruners.BasePruner:
    if sweep.early_terminate is None:
        return optuna.pruners.NopPruner()
    eta = sweep.early_terminate.eta
    if eta != int(eta) or eta < 2:
        raise UserError(f"{sweep.path}: early_terminate.eta: Optuna needs an integer of 2 or more, not {eta:g}")
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=sweep.early_terminate.min_iter, reduction_factor=int(eta), bootstrap_count=0
    )
