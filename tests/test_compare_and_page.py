"""`ttrl compare` and `ttrl report`: runs side by side, and the page of a study, in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from analysis import load
from analysis.compare import DIFFERENCE, config_differences, outcomes, print_comparison, read_side
from analysis.page import TEXTS, page, write_page
from ttrl_repro.config import Experiment
from ttrl_repro.errors import UserError
from ttrl_repro.records import Record

pytestmark = pytest.mark.timeout(1200)  # the records of every arm are made first
HOSTILE = '</script><script>document.title = "hacked"</script><!--'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def study(made_up_study, tmp_path_factory):
    """Three arms, a run of which has sampled texts that would be markup, and a label that is one."""
    folder = tmp_path_factory.mktemp("page")
    for arm in ("s-30", "s-oracle", "random"):
        shutil.copytree(made_up_study / arm, folder / arm)
    record = Record.reopen(folder / "s-30" / "r0")
    sample = {
        "question_id": "q0",
        "answer": "1",
        "key": "1",
        "reward": 1.0,
        "trained": True,
        "tokens": 5,
        "finished": True,
    }
    texts = [{**sample, "step": 1, "sample": i, "text": HOSTILE, "mean_logprob": -0.1} for i in range(TEXTS + 2)]
    record.write_samples(1, texts)
    return folder


# -- compare -----------------------------------------------------------------------------------------


def test_configs_and_outcomes_side_by_side(study):
    sides = [read_side(study / arm) for arm in ("s-30", "s-oracle")]
    differences = config_differences([side.experiment for side in sides])
    assert differences.to_numpy().tolist() == [["reward", "majority", "oracle"]]
    found = outcomes(sides).set_index(["title", "side"])
    assert found.loc[("avg", 0), "n"] == 2
    difference = found.loc[(DIFFERENCE, 1)]
    assert difference["value"] == pytest.approx(found.loc[("avg", 1), "value"] - found.loc[("avg", 0), "value"])
    # Paired: t(.975, 1) = 12.706 times the standard error of the two differences.
    pairs = [
        read_side(study / arm).study.answers.query("step == 40 and temperature > 0.5 and split == 'train'")
        for arm in ("s-30", "s-oracle")
    ]
    right = [(p[p["sample"] < 16].assign(ok=p["key"] == p["gold_key"]).groupby("run")["ok"].mean()) for p in pairs]
    differences = right[1].to_numpy() - right[0].to_numpy()
    assert difference["high"] - difference["value"] == pytest.approx(
        12.7062 * np.std(differences, ddof=1) / np.sqrt(2), rel=1e-3
    )


def test_what_looks_like_markup_is_shown_as_it_is(study, tmp_path):
    for arm in ("s-30", "s-oracle"):
        shutil.copytree(study / arm / "r0", tmp_path / arm)
    path = tmp_path / "s-oracle" / "config.yaml"
    changed = Record.reopen(tmp_path / "s-oracle").experiment().model_dump(mode="json")
    changed["prompt"]["suffix"] = "[bold]x[/INST]"
    experiment = Experiment.model_validate(changed)
    path.write_text(experiment.to_yaml())
    manifest = json.loads((tmp_path / "s-oracle" / "manifest.json").read_text())
    (tmp_path / "s-oracle" / "manifest.json").write_text(
        json.dumps({**manifest, "config_hash": experiment.cell_hash()})
    )
    out = Console(record=True, width=160)
    print_comparison([tmp_path / "s-30", tmp_path / "s-oracle"], out)
    assert "[bold]x[/INST]" in out.export_text()


def test_other_questions_have_no_paired_difference(made_up_study):
    found = outcomes([read_side(made_up_study / arm) for arm in ("s-30", "s-83")])
    assert DIFFERENCE not in set(found["title"])


def test_a_single_run_has_no_interval(study):
    found = outcomes([read_side(study / "s-30" / "r0"), read_side(study / "s-30")])
    assert found[found["side"] == 0]["low"].isna().all()
    out = Console(record=True, width=160)
    print_comparison([study / "s-30" / "r0", study / "s-30"], out)
    assert "configs are the same but for seeds and names" in out.export_text()


def test_what_cannot_be_compared_is_named(study, tmp_path, experiment):
    with pytest.raises(UserError, match="holds runs of 3 cells"):
        read_side(study)
    Record.create(tmp_path / "r", experiment, {"model": {"name": "mini-xs"}, "task": {"name": "x", "fingerprint": "f"}})
    with pytest.raises(UserError, match="no finished run; this one is running"):
        read_side(tmp_path / "r")
    with pytest.raises(UserError, match="give two runs or more"):
        print_comparison([study / "s-30"])


# -- page --------------------------------------------------------------------------------------------


def data_of(text):
    (found,) = re.findall(r"^const DATA = (.*);$", text, re.MULTILINE)
    return json.loads(found)


def test_the_page_is_one_file_without_network_and_data_cannot_leave_its_place(study):
    text = page(load(study), study, None)
    assert text.count("</script>") == 1
    assert "hacked" in text  # as text
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert "default-src 'none'" in text
    content = data_of(text)
    assert [run["run"] for run in content["runs"]] == [
        f"{arm}/r{r}" for arm in ("random", "s-30", "s-oracle") for r in (0, 1)
    ]
    assert {run["arm"] for run in content["runs"]} == {"random", "s-30", "s-oracle"}
    browsed = content["browser"]["s-30/r0"]
    assert len(browsed["texts"]["q0"]["1"]) == TEXTS
    assert browsed["texts"]["q0"]["1"][0]["text"] == HOSTILE
    assert len(browsed["right"]) == len(browsed["questions"]) == 6
    assert len(browsed["right"][0]) == len(browsed["steps"])


def test_claims_and_findings_on_the_page(study):
    content = data_of(page(load(study), study, None))
    verdicts = {one["key"]: one["verdict"] for one in content["claims"] if "key" in one}
    assert len(verdicts) == 8
    assert set(verdicts.values()) == {"insufficient"}  # two of ten replicates, or no runs
    assert len({one["key"] for one in content["findings"]}) > 60
    assert all(one["verdict"] for one in content["findings"])


def test_tables_and_pictures_on_the_page(study, tmp_path):
    (tmp_path / "table_x.md").write_text("A line.\n\n| a | b |\n|---|---|\n| 1 | <b>2</b> |\n\n| c |\n|---|\n| 3 |\n")
    (tmp_path / "table_findings.md").write_text("| x |\n|---|\n| 1 |\n")
    (tmp_path / "fig.png").write_bytes(b"picture")
    content = data_of(page(load(study), study, tmp_path))
    assert content["tables"] == [
        {"name": "table_x, 2", "columns": ["a", "b"], "rows": [["1", "<b>2</b>"]]},
        {"name": "table_x, 3", "columns": ["c"], "rows": [["3"]]},
    ]
    assert [one["name"] for one in content["figures"]] == ["fig"]


def test_what_does_not_count_is_said_and_nothing_private_is_shown(made_up_study, tmp_path):
    shutil.copytree(made_up_study / "s-30", tmp_path / "study" / "s-30")
    manifest = tmp_path / "study" / "s-30" / "r0" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"weights": "', '"weights": "x'))
    content = data_of(page(load(tmp_path / "study"), tmp_path / "study", None))
    assert any("not of the frozen laboratory" in note and "s-30/r0" in note for note in content["notes"])
    assert not any(name.startswith("tracking") for config in content["configs"].values() for name in config)
    (reason,) = [one["reason"] for one in content["claims"]]
    assert "s-30/r0: not a record of the frozen laboratory" in reason
    gain = next(one for one in content["findings"] if one["key"] == "gain")
    assert "s-30/r0: not a record of the frozen laboratory" in gain["what"]


def test_browsing_a_run_that_is_not_there(study, tmp_path):
    with pytest.raises(UserError, match="has no run 's-30/r9'"):
        page(load(study), study, None, ["s-30/r9"])
    assert list(data_of(page(load(study), study, None, ["s-30/r1"]))["browser"]) == ["s-30/r1"]
    with pytest.raises(UserError, match="--out: no such folder"):
        write_page(study, tmp_path / "none" / "page.html")


ACTIONS = """
<script>
const by = id => document.getElementById(id), all = pattern => [...document.querySelectorAll(pattern)];
const told = {count: by("count").textContent, rows: all("#runs-table tbody tr").length};
const filter = by("filter");
filter.value = "oracle"; filter.dispatchEvent(new Event("input"));
told.filtered = by("count").textContent;
filter.value = ""; filter.dispatchEvent(new Event("input"));
document.querySelector("th[data-column=avg]").click();
told.sorted = all("#runs-table tbody tr").map(row => Number(row.children[13].textContent));
told.charts = all("#charts svg").length;
told.differences = by("differences").textContent;
by("browsed").value = "s-30/r0"; by("browsed").dispatchEvent(new Event("change"));
document.querySelector("#grid .cell[style]").click();
told.detail = by("detail").textContent;
told.flips = by("flips").textContent;
told.title = document.title;
told.verdicts = all("#claims .verdict").length;
told.findings = all("#findings-tables tbody tr").length;
const out = document.createElement("pre");
out.id = "told"; out.textContent = JSON.stringify(told); document.body.append(out);
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian's package chromium)")
def test_the_page_works_in_a_browser(study, tmp_path):
    path = tmp_path / "page.html"
    write_page(study, path)
    path.write_text(path.read_text().replace("</body>", f"{ACTIONS}</body>"))
    argv = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    done = subprocess.run([*argv, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120)
    (found,) = re.findall(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    told = json.loads(html.unescape(found))
    assert (told["count"], told["rows"]) == ("6 of 6 runs", 6)
    assert told["filtered"] == "2 of 6 runs"
    assert told["sorted"] == sorted(told["sorted"], reverse=True)
    assert told["charts"] == 7
    assert "seeds.draw" in told["differences"]
    assert told["title"] == "TTRL study"
    assert HOSTILE in told["detail"]  # as text
    assert told["flips"].startswith("6 questions, steps 1 to 40, ")
    assert told["verdicts"] == 8
    assert told["findings"] > 60
    picture = tmp_path / "page.png"
    subprocess.run(
        [*argv, "--window-size=1280,2000", f"--screenshot={picture}", path.as_uri()], timeout=120, check=True
    )
    assert picture.stat().st_size > 50_000


def test_the_commands(study, tmp_path):
    def ttrl(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "ttrl_repro.cli", *map(str, arguments)], capture_output=True, text=True
        )

    done = ttrl("report", study, "--out", tmp_path / "page.html")
    assert (done.returncode, done.stdout) == (0, f"written: {tmp_path}/page.html\n")
    done = ttrl("compare", study / "s-30", study / "s-oracle")
    assert done.returncode == 0
    assert "oracle" in done.stdout
    done = ttrl("compare", study / "s-30")
    assert (done.returncode, done.stderr) == (2, "ttrl: give two runs or more, or folders of replicates\n")
