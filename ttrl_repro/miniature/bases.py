"""All bases of the laboratory, their table, and whether they are those of the reference.

`reference.csv` holds the statistics of the bases that the study used. Bases that are not shipped are made again from
recipe and seed, and rounding differs between processors, thread counts and versions of PyTorch: after some hundred
updates the weights have little in common but what they learned. So statistics are compared, not weights.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ttrl_repro.errors import UserError
from ttrl_repro.miniature.card import (
    ABSTENTIONS,
    GREEDY_ACCURACY,
    MAJORITY_RATIO,
    Card,
    CardProtocol,
    Statistic,
    best_temperature,
    card_of,
    locked,
    written,
)
from ttrl_repro.miniature.pretrain import make_base
from ttrl_repro.miniature.recipes import Recipe, load_recipe
from ttrl_repro.models import base_path
from ttrl_repro.progress import Progress
from ttrl_repro.records import write_atomic
from ttrl_repro.report import console
from ttrl_repro.stats import LEVEL, Estimate

SIZES = ("mini-xs", "mini-s", "mini-m")  # the study's; other recipes are for single figures
SEEDS = (0, 1, 2)
NAME = "bases"  # of the files that `write_survey` writes
SHOWN = 0.6  # the temperature of the table's columns, but for those that name another

# A statistic may differ from the reference by one of these, plus (for other weights) half the width of the reference's
# interval over questions: the first is for a change that all questions share, the second for questions that turn right
# or wrong one by one. What bases that were made again differed by is in docs/bases.md.
OTHER_WEIGHTS = 0.03
SAME_WEIGHTS = 0.01  # the same base: only samples whose uniform number lies on an edge differ

FIELDS = (
    *("base", "seed", "task", "draws", "questions", "measure", "temperature"),
    *("value", "low", "high", "population", "weights", "measured"),
)


@dataclass(frozen=True)
class Base:
    """A base: its recipe, its seed, and the folder where it is or would be."""

    recipe: Recipe
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """As `mini-s seed 1`."""
        return f"{self.recipe.name} seed {self.seed}"

    @property
    def present(self) -> bool:
        """Whether it is there."""
        return (self.folder / "config.json").is_file()


@dataclass(frozen=True)
class Row:
    """One statistic of one base, and the hashes of its card."""

    base: str
    seed: int
    statistic: Statistic
    weights: str
    measured: str

    @property
    def key(self) -> tuple[str, int, str, str, float]:
        """What a row is about: base, seed, task, measure, temperature."""
        return self.base, self.seed, self.statistic.task, self.statistic.measure, self.statistic.temperature

    @property
    def name(self) -> str:
        """The key, for messages."""
        base, seed, task, measure, temperature = self.key
        return f"{base} seed {seed}, {task}, {measure}" + (f" at T={temperature:g}" if temperature else "")


@dataclass(frozen=True)
class Difference:
    """A statistic beside the reference's; `allowed`: the largest difference that is within the tolerance."""

    here: Row
    reference: Row
    allowed: float

    @property
    def outside(self) -> bool:
        """Whether it is outside the tolerance."""
        gap = abs(self.here.statistic.estimate.value - self.reference.statistic.estimate.value)
        return gap > self.allowed + 1e-6  # a csv has six digits


def all_bases() -> list[Base]:
    """Every size with every seed of the study."""
    recipes = [load_recipe(name) for name in SIZES]
    return [Base(recipe, seed, base_path(recipe.name, seed)) for recipe in recipes for seed in SEEDS]


def survey(
    bases: Sequence[Base], protocol: CardProtocol, progress: Progress, pretrain: bool = False, again: bool = False
) -> list[Row]:
    """Statistics of the bases that are there. Each base's card is kept as soon as it is made.

    pretrain: make those that are missing, one after another. again: evaluate anew what has a card.
    """
    chosen = [base for base in bases if pretrain or base.present]
    rows: list[Row] = []
    progress.start("bases", len(chosen), unit="base")
    for base in chosen:
        if not base.present:
            make_base(base.recipe, base.seed, base.folder, progress, present_is_fine=True)
        rows += rows_of(base, card_of(base.folder, protocol, progress, again))
        progress.advance()
    progress.finish()
    return rows


def rows_of(base: Base, card: Card) -> list[Row]:
    """The card's statistics, with the base that they are of."""
    return [Row(base.recipe.name, base.seed, one, card.weights, card.measured) for one in card.statistics]


def missing_text(bases: Sequence[Base]) -> str | None:
    """Which bases are missing and how to make them; None if none is."""
    missing = [base for base in bases if not base.present]
    if not missing:
        return None
    commands = "".join(f"\n  ttrl pretrain {base.recipe.name} --seed {base.seed}" for base in missing)
    return f"missing: {len(missing)} of {len(bases)} bases; `ttrl bases --pretrain` makes all, or one by one:{commands}"


# -- files -----------------------------------------------------------------------------------------


def to_csv(rows: Sequence[Row]) -> str:
    """The rows, a line per statistic, six digits."""
    text = io.StringIO()
    out = csv.DictWriter(text, FIELDS, lineterminator="\n")
    out.writeheader()
    for row in rows:
        fields = asdict(row)
        flat = {**fields, **fields["statistic"], **fields["statistic"]["estimate"]}
        out.writerow(
            {name: f"{flat[name]:.6g}" if isinstance(flat[name], float) else flat[name] for name in FIELDS}
        )  # fmt: skip
    return text.getvalue()


def read_csv(path: Path) -> list[Row]:
    """What `to_csv` wrote. Raises UserError for a file that is missing, or that is not such a table."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such reference; `ttrl bases --write-reference` writes one")
    rows = []
    for number, line in enumerate(csv.DictReader(path.read_text().splitlines()), start=2):
        try:
            estimate = Estimate(
                float(line["value"]), float(line["low"]), float(line["high"]), line["population"] or None
            )
            statistic = Statistic(
                line["task"],
                int(line["draws"]),
                int(line["questions"]),
                line["measure"],
                float(line["temperature"]),
                estimate,
            )
            rows.append(Row(line["base"], int(line["seed"]), statistic, line["weights"], line["measured"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number}: is not a statistic of a base ({error})") from error
    return rows


def write_survey(rows: Sequence[Row], protocol: CardProtocol, folder: Path) -> list[Path]:
    """Write bases.csv (every statistic) and bases.md (the table, with intervals); returns their paths."""
    paths = [folder / f"{NAME}.csv", folder / f"{NAME}.md"]
    with locked(folder, print):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(paths[0], to_csv(rows))
        write_atomic(paths[1], markdown(rows, protocol))
    return paths


def reference_path() -> Path:
    """The reference of the package."""
    return Path(str(resources.files("ttrl_repro.miniature") / "reference.csv"))


def write_reference(rows: Sequence[Row], bases: Sequence[Base], path: Path) -> None:
    """Make these rows the reference. Raises UserError unless all bases are there."""
    absent = ", ".join(base.name for base in bases if not base.present)
    if absent:
        raise UserError(f"a reference needs every base; `ttrl bases --pretrain` makes those that are missing: {absent}")
    with locked(path.parent, print):
        write_atomic(path, to_csv(rows))


# -- tables ----------------------------------------------------------------------------------------


def columns_of(protocol: CardProtocol) -> list[tuple[str, str, float]]:
    """The table's columns: heading, measure, temperature (-1: the best for avg@k)."""
    n, k = max(each.samples for each in protocol.protocols), protocol.k
    voted = [each.temperature for each in protocol.protocols if each.samples == n and each.temperature]
    return [
        ("greedy", GREEDY_ACCURACY, 0.0),
        (f"avg@{k}", f"avg@{k}", SHOWN),
        (f"avg@{k}, best T", f"avg@{k}", -1.0),
        *((f"maj@{n}" + ("" if t == SHOWN else f", T={t:g}"), f"maj@{n}", t) for t in voted),
        (f"pass@{n}", f"pass@{n}", SHOWN),
        ("majority ratio", MAJORITY_RATIO, SHOWN),
        ("abstentions", ABSTENTIONS, SHOWN),
    ]


def table_rows(rows: Sequence[Row], protocol: CardProtocol) -> list[tuple[Row, list[tuple[Estimate, str]]]]:
    """A row per base and task (by its first statistic): estimate and note, column by column."""
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.key[:3], []).append(row)
    out = []
    for (_, _, task), group in groups.items():
        found = {(row.statistic.measure, row.statistic.temperature): row.statistic.estimate for row in group}
        best = best_temperature([row.statistic for row in group], task, protocol.k)
        cells = [
            (found[measure, best], f" (T={best:g})") if t < 0 else (found[measure, t], "")
            for _, measure, t in columns_of(protocol)
        ]
        out.append((group[0], cells))
    return out


def markdown(rows: Sequence[Row], protocol: CardProtocol) -> str:
    """The table with intervals."""
    headings = ["base", "seed", "task", *(heading for heading, _, _ in columns_of(protocol))]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for row, cells in table_rows(rows, protocol):
        texts = [row.base, str(row.seed), row.statistic.task, *(written(one) + note for one, note in cells)]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join([*lines, "", legend(protocol), ""])


def legend(protocol: CardProtocol) -> str:
    """What the table's numbers are."""
    best = ", ".join(f"{each.temperature:g}" for each in protocol.protocols if each.temperature)
    return (
        f"T={SHOWN:g} unless a column says otherwise; best T among {best}, chosen on the same answers. "
        f"{LEVEL:.0%} intervals over questions: other questions of the same kind, these weights."
    )


def print_survey(rows: Sequence[Row], protocol: CardProtocol, out: Console | None = None) -> None:
    """Print the table: each number with half the width of its interval."""
    out = out or console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("base", "seed", "task", *(heading for heading, _, _ in columns_of(protocol))):
        table.add_column(heading.replace(", ", "\n").replace("majority ", "majority\n"), no_wrap=True)
    for row, cells in table_rows(rows, protocol):
        texts = (short(one) + note for one, note in cells)
        table.add_row(row.base, str(row.seed), row.statistic.task, *texts)
    out.print(table)
    out.print(legend(protocol) + " ± is half their width.", highlight=False)


def short(estimate: Estimate) -> str:
    """Value and half the width of its interval, as `.452±.06`."""
    value, half = f"{estimate.value:.3f}", f"{half_width(estimate):.2f}"
    return f"{value.removeprefix('0')}±{half.removeprefix('0')}"


def half_width(estimate: Estimate) -> float:
    """Half the width of its interval."""
    return (estimate.high - estimate.low) / 2


# -- reference -------------------------------------------------------------------------------------


def compare(rows: Sequence[Row], reference: Sequence[Row]) -> list[Difference]:
    """Every statistic beside the reference's.

    Raises UserError for a statistic that the reference lacks, and for a reference of other tasks or protocol.
    """
    by_key = {row.key: row for row in reference}
    out = []
    for row in rows:
        other = by_key.get(row.key)
        if other is None:
            raise UserError(f"the reference has no {row.name}; `ttrl bases --write-reference` makes a new one")
        if other.measured != row.measured:
            raise UserError(
                f"the reference of {row.base} seed {row.seed} was made with other tasks or another protocol "
                f"({other.measured}, here {row.measured}); `ttrl bases --write-reference` makes a new one"
            )
        same = other.weights == row.weights
        allowed = SAME_WEIGHTS if same else OTHER_WEIGHTS + half_width(other.statistic.estimate)
        out.append(Difference(row, other, allowed))
    return out


def check(
    rows: Sequence[Row], reference: Sequence[Row], bases: Sequence[Base], say: Callable[[str], None] = print
) -> str:
    """A sentence if `bases`, and all that the reference has, are there and within its tolerance.

    Raises UserError as `compare`, if a base or a statistic is missing, and if one is outside; `say` names each of these
    statistics first.
    """
    found = compare(rows, reference)
    here, measured = dict.fromkeys(row.key[:2] for row in rows), {row.key for row in rows}
    absent = [base.name for base in bases if not base.present]
    absent += [f"{row.base} seed {row.seed}" for row in reference if row.key[:2] not in here]
    lacking = [row for row in reference if row.key[:2] in here and row.key not in measured]
    for row in lacking:
        say(f"{row.name}: in the reference, and not measured here")
    outside = [one for one in found if one.outside]
    for one in outside:
        value, there = one.here.statistic.estimate.value, one.reference.statistic.estimate.value
        say(f"{one.here.name}: {value:.3f}, reference {there:.3f}, allowed ±{one.allowed:.3f}")
    complaints = [f"missing here: {', '.join(dict.fromkeys(absent))}"] if absent else []
    complaints += [f"{len(lacking)} statistics of the reference are not measured here"] if lacking else []
    if outside:
        complaints.append(f"{len(outside)} of {len(found)} statistics are outside the tolerance of the reference")
    if complaints:
        raise UserError("; ".join(complaints))
    same = {one.here.key[:2] for one in found if one.here.weights == one.reference.weights}
    return (
        f"all {len(found)} statistics of {len(here)} base{'s' * (len(here) != 1)} are within the tolerance of the "
        f"reference ({len(same)} with its very weights)"
    )
