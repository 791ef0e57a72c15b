"""The installed wheel, outside the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The wheel, built from this repository and unpacked into a folder of its own."""
    repository = Path(__file__).resolve().parent.parent
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: building leaves files behind
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    for name in ("ttrl_repro", "analysis", "tests"):
        shutil.copytree(repository / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder),
         str(source)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def python(site: Path, code: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_carries_what_it_needs_and_no_tests(site):
    names = {str(path.relative_to(site)) for path in site.rglob("*")}
    assert "ttrl_repro/miniature/weights/mini-xs-seed0/model.safetensors" in names
    assert "ttrl_repro/miniature/recipes/mini-s.yaml" in names
    assert "ttrl_repro/miniature/frozen.json" in names
    assert "analysis/load.py" in names
    assert "analysis/claims.yaml" in names
    assert not any(name.startswith(("tests", "bench", "paper_figures")) for name in names)


def test_the_wheel_works_outside_the_repository(site, tmp_path):
    code = """
import ttrl_repro, analysis
from ttrl_repro.models import load_model
from ttrl_repro.tasks import load_task
print(ttrl_repro.__file__)
model, tokenizer = load_model("mini-xs")
print(model.num_parameters(), len(load_task("mini-30").questions))
"""
    lines = python(site, code, tmp_path).splitlines()
    assert lines[0].startswith(str(site))
    assert lines[1].endswith(" 30")


def test_light_modules_import_no_torch(site, tmp_path):
    code = """
import sys
import ttrl_repro.votes, ttrl_repro.answers, ttrl_repro.stats, ttrl_repro.records, ttrl_repro.config, ttrl_repro.cli
import analysis.curves, analysis.claims, analysis.sharpened_null, analysis.budget, ttrl_repro.laboratory
heavy = {"torch", "transformers", "trl", "wandb"} & sys.modules.keys()
assert not heavy, heavy
"""
    python(site, code, tmp_path)
