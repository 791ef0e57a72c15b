"""Parts by name: this package's own, and those of other packages, through real entry points."""

import json
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field

from ttrl_repro.config import Experiment, load_experiment
from ttrl_repro.errors import UserError
from ttrl_repro.parts import Registry
from ttrl_repro.rewards import REWARDS, Gated, Majority, Reward


class Scaled(Reward):
    name: Literal["scaled"] = "scaled"
    by: float = Field(gt=0)
    sizes: tuple[int, ...] = (1,)


OWN = Registry("reward", Reward, (Majority, Scaled))

# A module of another package: two rewards, and things that are none.
MODULE = """
from typing import Literal
from ttrl_repro.rewards import Reward

class Mine(Reward):
    name: Literal["mine"] = "mine"
    power: int = 2

class Other(Reward):
    name: Literal["other"] = "other"

class Stranger:
    pass

number = 7
"""


def install(folder: Path, package: str, entries: dict[str, str]) -> None:
    """What an installed package leaves: a module and its metadata."""
    (folder / f"{package}.py").write_text(MODULE)
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {package}:{target}" for name, target in entries.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[ttrl_repro.rewards]", *lines, ""]))


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_part_by_name_by_mapping_and_as_it_is():
    assert OWN.make("majority") == Majority() == OWN.make({"name": "majority"}) == OWN.make({})
    assert OWN.make({"name": "scaled", "by": 2}) == Scaled(by=2)
    made = Scaled(by=3)
    assert OWN.make(made) is made


def test_labels_and_changed_settings():
    assert Majority().label() == "majority"
    assert Gated().label() == "gated"
    assert Gated(least_ratio=0.7).label() == "gated (least_ratio=0.7)"
    assert Gated(least_ratio=0.7).changed() == {"least_ratio": 0.7}
    # Another package's defaults may change, and its name may be taken by a third: all of it names the cell.
    assert Scaled(by=2).changed() == {"by": 2, "sizes": [1], "class": "tests.test_parts:Scaled"}
    assert Scaled(by=2).label() == "scaled (by=2.0)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("magic", r"^unknown reward 'magic'; known: 'majority', 'scaled'$"),
        ({"name": "magic", "by": 1}, "^unknown reward 'magic'"),
        (7, "^expected a name, or a mapping of a name and settings$"),
        (["majority"], "^expected a name, or a mapping"),
        ({"name": 7}, "^expected a name, or a mapping"),
        ("scaled", r"^'scaled' needs a setting: \{name: scaled, by: ...\}$"),
        ({"name": "scaled", "by": -1}, "^by: Input should be greater than 0$"),
        ({"name": "scaled", "by": 1, "sizes": ["a"]}, r"^sizes\.0: "),
        ({"name": "scaled", "by": 1, "at": 2}, "^at: unknown setting of 'scaled'; known: by, sizes$"),
        ({"at": 2}, "^at: unknown setting of 'majority'; known: none$"),
    ],
)
def test_what_names_no_part_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        OWN.make(given)


def test_parts_of_another_package(site):
    install(site, "honest", {"mine": "Mine"})
    assert REWARDS.names()[-1] == "mine"
    assert REWARDS.make({"name": "mine", "power": 3}).label() == "mine (power=3)"
    experiment = Experiment.model_validate({"name": "x", "task": "mini-30", "model": "mini-xs", "reward": "mine"})
    assert yaml.safe_load(experiment.to_yaml())["reward"] == {"name": "mine", "power": 2}


@pytest.mark.parametrize(
    ("package", "entries", "name", "message"),
    [
        (
            "strange",
            {"strange": "Stranger"},
            "strange",
            "strange:Stranger is no subclass of ttrl_repro.rewards.base.Reward",
        ),
        ("numeric", {"seven": "number"}, "seven", "numeric:number is no subclass of"),
        (
            "renamed",
            {"yours": "Mine"},
            "yours",
            "renamed:Mine is called 'mine', its entry point 'yours'; they must agree",
        ),
        ("taken", {"majority": "Mine"}, "majority", "more than one reward is called 'majority': taken:Mine; uninstall"),
    ],
)
def test_entry_points_that_do_not_fit_are_refused(site, package, entries, name, message):
    install(site, package, entries)
    with pytest.raises(ValueError, match=message):
        REWARDS.make(name)


def test_two_packages_with_one_name(site):
    install(site, "first", {"mine": "Mine"})
    install(site, "second", {"mine": "Mine", "other": "Other"})
    with pytest.raises(
        ValueError, match="more than one reward is called 'mine': first:Mine, second:Mine; uninstall or"
    ):
        REWARDS.get("mine")
    assert REWARDS.get("other").__name__ == "Other"


def test_a_broken_package_says_what_is_wrong_with_it(site):
    install(site, "broken", {"mine": "Nothing"})
    with pytest.raises(ValueError, match=r"reward 'mine' of broken:Nothing cannot be loaded: .* 'Nothing'"):
        REWARDS.get("mine")


# -- on the command line -----------------------------------------------------------------------------


def load(tmp_path, overrides, **content):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "task": "mini-30", "model": "mini-xs", **content}))
    return load_experiment(path, overrides)


def test_overrides_of_a_part_and_its_settings(tmp_path):
    noisy = ["reward=noisy_oracle", "reward.correct=0.7"]
    assert load(tmp_path, noisy).reward.label() == "noisy_oracle (correct=0.7)"
    assert load(tmp_path, noisy, reward={"name": "gated", "least_ratio": 0.3}).reward.correct == 0.7
    assert load(tmp_path, ["reward.least_ratio=0.3"], reward="gated").reward == Gated(least_ratio=0.3)
    assert load(tmp_path, ["algorithm=dapo", "algorithm.clip_high=0.3"]).algorithm.clip_high == 0.3
    assert load(tmp_path, ["algorithm.kl=0.1"]).algorithm.label() == "grpo (kl=0.1)"
    # Only where a name is short for a mapping.
    with pytest.raises(UserError, match="'task' is not a group of fields"):
        load(tmp_path, ["task.name=x"])


def test_settings_name_another_cell(tmp_path):
    half, most = (load(tmp_path, [f"reward.least_ratio={ratio}"], reward="gated") for ratio in (0.5, 0.9))
    hashes = {half.cell_hash(), most.cell_hash(), load(tmp_path, []).cell_hash()}
    assert len(hashes) == 3
    assert load(tmp_path, [], reward="gated").cell_hash() == half.cell_hash()  # a default written out
    again = Experiment.model_validate(json.loads(json.dumps(yaml.safe_load(most.to_yaml()))))
    assert again == most
