"""What the README shows is what the commands print, and the project speaks of itself alone."""

import re
import subprocess
import sys

import pytest


def test_the_readme_shows_what_its_commands_print(repository):
    done = subprocess.run(
        [sys.executable, str(repository / "docs" / "fill_readme.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_fill_readme_notices_a_number_typed_by_hand(repository, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(repository / "docs")
    import fill_readme

    text = "before\n<!-- output of: echo 0.5 -->\n```\n0.6\n```\n<!-- end -->\nafter\n"
    assert fill_readme.filled(text) == text.replace("0.6", "0.5")


def test_every_path_in_the_readme_exists(repository):
    text = (repository / "README.md").read_text()
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (repository / path).exists(), path
    targets = set(re.findall(r"`make ([a-z-]+)`", text))
    makefile = (repository / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("pattern", [r"/work/", r"/root/", r"\bissue #?\d+\b"])
def test_no_machine_and_no_tracker_is_named(repository, pattern):
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout, so it is not known which files are the project's")
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=repository, check=True)
    for name in files.stdout.splitlines():
        path = repository / name
        if (
            path.suffix in {".py", ".md", ".yaml", ".json", ".jsonl", ".toml", ".txt", ""}
            and name != "tests/test_readme.py"
        ):
            assert not re.search(pattern, path.read_text(errors="ignore")), f"{name} matches {pattern}"
