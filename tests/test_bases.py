import dataclasses
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.test_card import SHORT, TINY, Recorder
from ttrl_repro import cli
from ttrl_repro.errors import UserError
from ttrl_repro.evaluate import GREEDY, Protocol
from ttrl_repro.miniature import bases as library
from ttrl_repro.miniature.bases import (
    OTHER_WEIGHTS,
    SAME_WEIGHTS,
    SEEDS,
    SIZES,
    Base,
    Row,
    all_bases,
    check,
    compare,
    markdown,
    missing_text,
    print_survey,
    read_csv,
    survey,
    to_csv,
    write_reference,
    write_survey,
)
from ttrl_repro.miniature.card import Card, CardProtocol, Statistic
from ttrl_repro.miniature.pretrain import make_base
from ttrl_repro.miniature.recipes import load_recipe
from ttrl_repro.stats import Estimate

PROTOCOL = CardProtocol(("t",), protocols=(GREEDY, Protocol(0.6, 0.95, 4), Protocol(1.0, 1.0, 4)), k=2)


def statistics(shift: float = 0.0) -> tuple[Statistic, ...]:
    """A fake evaluation by PROTOCOL; every value has an interval of 0.1 on either side."""
    values = [
        (0.0, {"greedy": 0.5, "abstentions": 0.1}),
        (0.6, {"avg@2": 0.25, "maj@4": 0.375, "pass@4": 0.75, "majority_ratio": 0.5, "abstentions": 0.125}),
        (1.0, {"avg@2": 0.3, "maj@4": 1 / 3, "pass@4": 0.8, "majority_ratio": 0.4, "abstentions": 0.2}),
    ]
    return tuple(
        Statistic("t", 2, 60, measure, t, Estimate(v + shift, v + shift - 0.1, v + shift + 0.1, "questions"))
        for t, found in values
        for measure, v in found.items()
    )


def rows(shift: float = 0.0, weights: str = "w", measured: str = "m", seed: int = 0) -> list[Row]:
    return [Row("tiny", seed, one, weights, measured) for one in statistics(shift)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TTRL_BASES", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_study_s_bases_are_three_sizes_with_three_seeds():
    found = all_bases()
    assert [(base.recipe.name, base.seed) for base in found] == [(name, seed) for name in SIZES for seed in SEEDS]
    sizes = [base.recipe.architecture.parameters() for base in found]
    assert sizes == sorted(sizes)
    shipped = next(base for base in found if (base.recipe.name, base.seed) == ("mini-xs", 0))
    assert shipped.present
    assert load_recipe("mini-xs") == shipped.recipe


def test_csv():
    assert to_csv(rows()[:3] + rows(weights="v", seed=1)[8:9]) == (
        "base,seed,task,draws,questions,measure,temperature,value,low,high,population,weights,measured\n"
        "tiny,0,t,2,60,greedy,0,0.5,0.4,0.6,questions,w,m\n"
        "tiny,0,t,2,60,abstentions,0,0.1,0,0.2,questions,w,m\n"
        "tiny,0,t,2,60,avg@2,0.6,0.25,0.15,0.35,questions,w,m\n"
        "tiny,1,t,2,60,maj@4,1,0.333333,0.233333,0.433333,questions,v,m\n"
    )


def test_csv_is_read_back(tmp_path):
    path = tmp_path / "bases.csv"
    path.write_text(to_csv(rows()))
    assert to_csv(read_csv(path)) == path.read_text()
    assert [row.key for row in read_csv(path)] == [row.key for row in rows()]
    path.write_text(path.read_text().replace("0.25,0.15", "many,0.15"))
    with pytest.raises(UserError, match="line 4: is not a statistic"):
        read_csv(path)
    path.write_text("base,seed\ntiny,0\n")
    with pytest.raises(UserError, match="line 2: is not a statistic"):
        read_csv(path)


def test_markdown():
    # The best temperature for avg@2 is 1.0.
    assert markdown(rows(), PROTOCOL).splitlines()[:3] == [
        "| base | seed | task | greedy | avg@2 | avg@2, best T | maj@4 | maj@4, T=1 | pass@4 "
        "| majority ratio | abstentions |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        "| tiny | 0 | t | 0.500 [0.400, 0.600] | 0.250 [0.150, 0.350] | 0.300 [0.200, 0.400] (T=1) "
        "| 0.375 [0.275, 0.475] | 0.333 [0.233, 0.433] | 0.750 [0.650, 0.850] | 0.500 [0.400, 0.600] "
        "| 0.125 [0.025, 0.225] |",
    ]


def test_the_printed_table_fits_its_width(capsys):
    everything = CardProtocol.standard()
    # With the longest name of a task that is planned.
    fake = [
        Row("mini-xs", 2, Statistic("mini-choice", 2, 396, m, t, Estimate(0.5, 0.25, 0.75, "questions")), "w", "m")
        for t, ms in (
            (0.0, ("greedy", "abstentions")),
            (0.3, ("avg@16", "abstentions")),
            (0.6, ("avg@16", "maj@64", "pass@64", "majority_ratio", "abstentions")),
            (1.0, ("avg@16", "maj@64", "pass@64", "majority_ratio", "abstentions")),
        )
        for m in ms
    ]
    print_survey(fake, everything, Console(width=126))
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "mini-choice" in line]
    assert (
        line.split()
        == ["mini-xs", "2", "mini-choice", ".500±.25", ".500±.25", ".500±.25", "(T=0.3)"] + [".500±.25"] * 5
    )
    assert "±" in out.splitlines()[-1]


def test_a_base_within_the_tolerance():
    # Other weights: OTHER_WEIGHTS and half the reference's interval, which is 0.1 here.
    sentence = check(rows(OTHER_WEIGHTS + 0.099, weights="v"), rows(), [])
    assert sentence == "all 12 statistics of 1 base are within the tolerance of the reference (0 with its very weights)"
    assert "(1 with its very weights)" in check(rows(SAME_WEIGHTS), rows(), [])


@pytest.mark.parametrize(
    ("shift", "weights", "allowed"),
    [(OTHER_WEIGHTS + 0.101, "v", OTHER_WEIGHTS + 0.1), (SAME_WEIGHTS + 0.001, "w", SAME_WEIGHTS)],
)
def test_a_base_outside_the_tolerance_is_named(shift, weights, allowed):
    differs = [*rows(weights=weights)[:3], *rows(shift, weights)[3:4], *rows(weights=weights)[4:]]
    (outside,) = [one for one in compare(differs, rows()) if one.outside]
    assert (outside.here, outside.allowed) == (differs[3], pytest.approx(allowed))
    said: list[str] = []
    with pytest.raises(UserError, match=r"^1 of 12 statistics are outside the tolerance of the reference$"):
        check(differs, rows(), [], said.append)
    assert said == [f"tiny seed 0, t, maj@4 at T=0.6: {0.375 + shift:.3f}, reference 0.375, allowed ±{allowed:.3f}"]


def test_a_reference_of_something_else_is_refused():
    with pytest.raises(UserError, match="the reference has no tiny seed 1, t, greedy;"):
        check(rows(seed=1), rows(), [])
    with pytest.raises(UserError, match=r"other tasks or another protocol \(m, here other\)"):
        check(rows(measured="other"), rows(), [])


def test_what_is_missing_is_named(tmp_path):
    both = [*rows(), *rows(seed=1)]
    with pytest.raises(UserError, match=r"^missing here: tiny seed 1$"):
        check(rows(), both, [])
    with pytest.raises(UserError, match=r"^missing here: tiny seed 0, tiny seed 1$"):
        check([], both, [])
    # A base that the reference does not know, either.
    with pytest.raises(UserError, match=r"^missing here: tiny seed 2$"):
        check(both, both, [Base(TINY, 2, tmp_path)])
    said: list[str] = []
    with pytest.raises(UserError, match=r"^1 statistics of the reference are not measured here$"):
        check(rows()[1:], rows(), [], said.append)
    assert said == ["tiny seed 0, t, greedy: in the reference, and not measured here"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tiny-seed0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTRL_BASES", str(folder.parent))
        make_base(TINY, 0, folder, Recorder())
    return folder


@pytest.fixture
def two(made, tmp_path) -> list[Base]:
    """A base that is there, without a card, and one that is not there."""
    return [
        Base(TINY, 0, Path(shutil.copytree(made, tmp_path / "tiny-seed0"))),
        Base(TINY, 1, tmp_path / "tiny-seed1"),
    ]


def test_missing_bases_are_left_out_and_named(two):
    progress = Recorder()
    found = survey(two, SHORT, progress)
    assert {row.key[:3] for row in found} == {("tiny", 0, "mini-30")}
    assert progress.started == ["bases", "evaluating tiny-seed0"]
    assert missing_text(two) == (
        "missing: 1 of 2 bases; `ttrl bases --pretrain` makes all, or one by one:\n  ttrl pretrain tiny --seed 1"
    )


def test_missing_bases_are_made_when_asked_and_kept(two):
    found = survey(two, SHORT, Recorder(), pretrain=True)
    assert {row.key[:2] for row in found} == {("tiny", 0), ("tiny", 1)}
    assert len({row.weights for row in found}) == 2
    assert missing_text(two) is None
    progress = Recorder()
    assert survey(two, SHORT, progress, pretrain=True) == found
    assert progress.started == ["bases"]
    assert found[0].statistic == Card.from_json((two[0].folder / "card.json").read_text()).statistics[0]


def test_a_survey_that_ends_early_keeps_what_it_has(two):
    two[1].folder.mkdir()
    (two[1].folder / "config.json").write_text("{}")  # looks like a base, and cannot be loaded
    with pytest.raises(UserError, match="cannot load"):
        survey(two, SHORT, Recorder())
    progress = Recorder()
    survey(two[:1], SHORT, progress)
    assert progress.started == ["bases"]


def test_files(tmp_path):
    paths = write_survey(rows(), PROTOCOL, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["bases.csv", "bases.md"]
    assert paths[0].read_text() == to_csv(rows())
    assert paths[1].read_text() == markdown(rows(), PROTOCOL)
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["bases.csv", "bases.md"]


def test_a_reference_needs_every_base(two, tmp_path):
    with pytest.raises(UserError, match=r"needs every base; .* missing: tiny seed 1$"):
        write_reference(rows(), two, tmp_path / "reference.csv")
    write_reference(rows(), two[:1], tmp_path / "reference.csv")
    assert (tmp_path / "reference.csv").read_text() == to_csv(rows())


def test_the_command(two, tmp_path, monkeypatch, capsys):
    reference = tmp_path / "reference.csv"

    def ttrl(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["ttrl", "bases", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    monkeypatch.setattr(library, "all_bases", lambda: two)
    protocol = dataclasses.replace(SHORT, protocols=(*SHORT.protocols[:2], Protocol(1.0, 1.0, 4)))
    monkeypatch.setattr(CardProtocol, "standard", classmethod(lambda _: protocol))
    assert ttrl("--check", "--reference", str(reference)) == 2
    assert f"ttrl: {reference}: there is no such reference" in capsys.readouterr().err
    assert ttrl("--out", str(tmp_path / "out")) == 0
    out = capsys.readouterr().out
    assert "ttrl pretrain tiny --seed 1" in out
    assert f"written: {tmp_path / 'out' / 'bases.md'}" in out
    assert ttrl("--write-reference", "--reference", str(reference)) == 2
    assert not reference.exists()
    assert ttrl("--pretrain", "--write-reference", "--reference", str(reference)) == 0
    capsys.readouterr()
    assert ttrl("--check", "--reference", str(reference)) == 0
    assert "2 bases are within the tolerance of the reference (2 with its very weights)" in capsys.readouterr().out
    shutil.move(two[1].folder, two[1].folder.with_name("away"))
    assert ttrl("--check", "--reference", str(reference)) == 2
    assert "ttrl: missing here: tiny seed 1" in capsys.readouterr().err
    shutil.move(two[1].folder.with_name("away"), two[1].folder)
    first = read_csv(reference)
    # Of a base as good as never wrong; the one here is nearly always.
    moved = [
        dataclasses.replace(row, statistic=dataclasses.replace(row.statistic, estimate=Estimate(1, 1, 1, "questions")))
        for row in first
    ]
    reference.write_text(to_csv(moved))
    assert ttrl("--check", "--reference", str(reference)) == 2
    assert "statistics are outside the tolerance" in capsys.readouterr().err
