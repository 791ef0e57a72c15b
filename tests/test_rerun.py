"""Running committed runs again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from analysis.rerun import candidates, compare, main, rerun_some
from bench.stress import EXPERIMENT
from ttrl_repro.errors import UserError
from ttrl_repro.records import keep_compact


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A compact record of a real run of five steps, in study/votes/a."""
    folder = tmp_path_factory.mktemp("rerun")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    argv = [sys.executable, "-m", "ttrl_repro.cli", "run", folder / "tiny.yaml", "--out", folder / "run"]
    subprocess.run(argv, check=True, capture_output=True)
    keep_compact(folder / "run", folder / "study" / "votes" / "a")
    return folder / "study"


def test_a_rerun_is_its_record_bit_for_bit(kept, tmp_path, capsys):
    assert candidates(kept) == ["votes/a"]
    (found,) = rerun_some(kept, 3, 0, tmp_path / "again")
    assert (found.bitwise, found.labels, found.avg == found.recorded, found.fine) == (True, 1.0, True, True)
    assert "votes/a: bit for bit; avg " in capsys.readouterr().out


def test_another_run_is_noticed(kept, tmp_path, monkeypatch, capsys):
    record, other = kept / "votes" / "a", tmp_path / "other"
    shutil.copytree(record, other)
    lines = (other / "metrics.jsonl").read_text().splitlines()
    changed = {**json.loads(lines[-1]), "entropy": 1.0}
    (other / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(changed)]) + "\n")
    here = compare("x", record, other)
    assert (here.bitwise, here.alike, here.labels, here.fine) == (False, True, 1.0, False)
    assert here.line().endswith(": NOT same")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["environment"]["processor"] = "another"
    (other / "manifest.json").write_text(json.dumps(manifest))
    elsewhere = compare("x", record, other)  # other rounding, the same result
    assert (elsewhere.bitwise, elsewhere.alike, elsewhere.fine) == (False, False, True)

    monkeypatch.setattr("analysis.rerun.rerun", lambda _, out: shutil.copytree(tmp_path / "other", out))
    assert [one.fine for one in rerun_some(kept, 1, 0, tmp_path / "again")] == [True]
    (tmp_path / "other" / "manifest.json").write_text((record / "manifest.json").read_text())
    with pytest.raises(SystemExit) as ended:
        main(kept, 1, 0, tmp_path / "again-2")
    assert ended.value.code == 1
    assert "NOT same" in capsys.readouterr().out


def test_nothing_to_run_again(kept, tmp_path):
    record = tmp_path / "study" / "a"
    shutil.copytree(kept / "votes" / "a", record)
    manifest = json.loads((record / "manifest.json").read_text())
    manifest["seeds"]["base"] = 1
    (record / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="no finished record on a shipped base"):
        candidates(tmp_path / "study")
