"""The freeze: which claims the study tests, and with which bases, recipes and tasks of the miniature.

`miniature/frozen.json` holds hashes of them. A test compares it with the package, so that nothing changes unnoticed; a
run writes into its manifest what it used; `analysis.load(..., frozen=True)` refuses records made with anything else.

    python -m ttrl_repro.laboratory freeze TAG     write frozen.json from the package as it is; then commit, and tag TAG
    python -m ttrl_repro.laboratory check          what differs from it

What has no hash here: the code that pretrains, samples and trains. The manifest's `git` names it: `refusal` refuses a
record made with changed code, and `unrelated` tells whether a commit descends from the freeze's tag, where there is a
git checkout. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import Field, ValidationError

from ttrl_repro.config import describe
from ttrl_repro.errors import UserError, in_one_line
from ttrl_repro.miniature.corpus import documents
from ttrl_repro.miniature.recipes import load_recipe, recipe_names
from ttrl_repro.parts import Strict
from ttrl_repro.records import write_atomic
from ttrl_repro.tasks import load_task, task_names

MINIATURE = Path(str(resources.files("ttrl_repro.miniature")))
PATH = MINIATURE / "frozen.json"
SOURCE = Path(__file__).resolve().parent
CLAIMS = SOURCE.parent / "analysis" / "claims.yaml"  # read as a file: nothing of `analysis` is imported here
DRAWS = 10  # of each task that are hashed
CORPUS_TOKENS = 20_000  # of each recipe's corpus
# What a base is, besides its .safetensors: shape, constants, vocabulary, ids of the special tokens.
MADE_OF = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


class Frozen(Strict):
    """The content of frozen.json. `tag`: the git tag of the commit that has it. The rest: what -> its hash.

    weights: of a shipped base (`mini-s-seed0`), see `base_hash`. recipes: of a recipe, see
    `recipe_hash`. corpora: of a recipe, the first CORPUS_TOKENS of the corpus that it makes with base seed 0. tasks: of
    a task, draws 0 to DRAWS - 1, see `draw_hash`. claims: of the claims and their arms, see `claims_hash`. findings: of
    the criteria of all other findings and of the study's arms, see `findings_hash`.
    """

    tag: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    weights: dict[str, str]
    recipes: dict[str, str]
    corpora: dict[str, str]
    tasks: dict[str, list[str]]
    claims: str
    findings: str

    def content_hash(self) -> str:
        """16 hex digits that name this freeze in manifests: what runs are made with, and the claims."""
        return _hash(self.model_dump(exclude={"findings"}))


def read(path: Path = PATH) -> Frozen:
    """The freeze that the package comes with. Raises UserError if the file is missing or malformed."""
    try:
        return Frozen.model_validate_json(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; `python -m ttrl_repro.laboratory freeze TAG` writes it") from error
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, Frozen)}") from error


def base_hash(base: Path) -> str:
    """Hash of the files that make the base in a folder: MADE_OF and its weights, by name and SHA-256.

    Raises FileNotFoundError if one of them is missing.
    """
    weights = list(base.glob("*.safetensors"))
    if not weights:
        raise FileNotFoundError(f"{base}: no .safetensors here")
    digest = hashlib.sha256()
    for path in sorted([*weights, *(base / name for name in MADE_OF)]):
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()[:16]


def recipe_hash(content: dict[str, Any]) -> str:
    """Hash of a recipe's content, defaults included: all but `description`, which makes no base."""
    return _hash({name: value for name, value in content.items() if name != "description"})


def base_recipe_hash(base: Path) -> str | None:
    """`recipe_hash` of the recipe that made the base in this folder, by its recipe.json; None without one.

    A base from the user's cache may be older than the package's recipe of that name.
    """
    made = _made(base)
    return recipe_hash(made["recipe"]) if made else None


def base_seed_of(base: Path) -> int | None:
    """The base seed that made the base in this folder, by its recipe.json; None if that does not say."""
    return _made(base).get("summary", {}).get("base_seed")


def package_recipe_hash(name: str) -> str:
    """`recipe_hash` of the package's recipe. Raises UserError for an unknown name."""
    return recipe_hash(load_recipe(name).model_dump(mode="json"))


@cache
def corpus_hash(name: str) -> str:
    """Hash of the first documents of a recipe's corpus: changes with the generator of expressions, texts or tokens."""
    corpus = load_recipe(name).corpus.model_copy(update={"tokens": CORPUS_TOKENS})
    return _hash([[document.prompt_ids, document.completion_ids] for document in documents(corpus, 0)])


@cache  # drawing takes a while, and a process may start many runs
def draw_hash(task: str, draw: int) -> str:
    """Hash of a draw of a miniature task: ids, problems and answers of its train and its fresh set."""
    sets = [load_task(task, draw), load_task(task, draw, "fresh")]
    return _hash([[[question.id, question.problem, question.answer] for question in one.questions] for one in sets])


def claims_hash(path: Path = CLAIMS) -> str:
    """Hash of what a claims file says, whatever its comments and layout."""
    return _hash(yaml.safe_load(path.read_text(encoding="utf-8")))


def findings_hash(folder: Path = CLAIMS.parent) -> str:
    """Hash of what findings.yaml and arms.yaml say, whatever their comments and layout."""
    return _hash([claims_hash(folder / name) for name in ("findings.yaml", "arms.yaml")])


def package_state(tag: str) -> Frozen:
    """The hashes of the package as it is (some 15 seconds). Raises UserError for a tag that is none."""
    try:
        named = Frozen(tag=tag, weights={}, recipes={}, corpora={}, tasks={}, claims="", findings="")
    except ValidationError as error:
        raise UserError(f"{tag!r} cannot be a tag; use letters, digits, dots and dashes, as in lab-v1") from error
    names = recipe_names()
    hashes = {
        "weights": {base.name: base_hash(base) for base in _shipped()},
        "recipes": {name: package_recipe_hash(name) for name in names},
        "corpora": {name: corpus_hash(name) for name in names},
        "tasks": {task: [draw_hash(task, draw) for draw in range(DRAWS)] for task in task_names()},
        "claims": claims_hash(),
        "findings": findings_hash(),
    }
    return named.model_copy(update=hashes)


def differences(frozen: Frozen, found: Frozen) -> list[str]:
    """What of `found` is not as frozen, a line each: `weights of mini-s-seed0: changed`. Empty if they agree."""
    lines = []
    for kind in ("weights", "recipes", "corpora", "tasks"):
        before, now = getattr(frozen, kind), getattr(found, kind)
        for name in sorted(before.keys() | now.keys()):
            if name not in now or name not in before:
                lines.append(f"{kind} of {name}: {'missing' if name not in now else 'not in the freeze'}")
            elif before[name] != now[name]:
                lines.append(f"{kind} of {name}: changed")
    lines += ["claims: changed"] * (frozen.claims != found.claims)
    return lines + ["findings or arms: changed"] * (frozen.findings != found.findings)


def foreign_bases() -> list[str]:
    """Names of shipped bases that the package's recipe of their name did not make."""
    recipes = {name: package_recipe_hash(name) for name in recipe_names()}
    return [base.name for base in _shipped() if recipes.get(_recipe_of(base)) != base_recipe_hash(base)]


def freeze(tag: str, path: Path = PATH) -> Frozen:
    """Write frozen.json from the package as it is. Raises UserError if a shipped base is not of its recipe."""
    foreign = foreign_bases()
    if foreign:
        raise UserError(f"the recipes did not make these shipped bases: {', '.join(foreign)}; pretrain them again")
    state = package_state(tag)
    write_atomic(path, json.dumps(state.model_dump(), indent=2) + "\n")
    return state


def in_force(
    model: str, base_seed: int, base: Path | None, tasks: Sequence[str], draw: int
) -> tuple[str | None, str | None]:
    """`content_hash` of the package's freeze if all that a run uses is as frozen; else None, and why it is not.

    base: the folder of the model's weights, None for a model that is no miniature base. tasks: the one trained on, then
    all others that the run evaluates on. Of a draw beyond the frozen ones, draw 0 stands for the generator. A run of
    another model, or on a task that is none of the miniature's, has nothing to do with the freeze: (None, None), and
    nothing is read. Raises UserError as `read`.
    """
    if base is None or tasks[0] not in task_names():
        return None, None
    frozen = read()
    reason = _departure(frozen, model, base_seed, base, tasks, draw)
    return (None, reason) if reason else (frozen.content_hash(), None)


def _departure(frozen: Frozen, model: str, base_seed: int, base: Path, tasks: Sequence[str], draw: int) -> str | None:
    """What a run uses that is not as frozen, what is looked up fast first; None if nothing is."""
    if model not in frozen.recipes:
        return f"its model {model} is not in the freeze {frozen.tag}"
    unknown = [task for task in tasks if task not in frozen.tasks]
    if unknown:
        return f"its task {unknown[0]} is not in the freeze {frozen.tag}"
    if base_recipe_hash(base) != frozen.recipes[model]:
        return f"its base {model}, seed {base_seed}, was made by another recipe than that of {frozen.tag}"
    if base_seed_of(base) != base_seed:
        return f"its base {model}, seed {base_seed}, was made with base seed {base_seed_of(base)}"
    shipped = frozen.weights.get(f"{model}-seed{base_seed}")
    if shipped is not None and base_hash(base) != shipped:
        return f"its base {model}, seed {base_seed}, has other files than that of {frozen.tag}"
    if package_recipe_hash(model) != frozen.recipes[model]:
        return f"the recipe {model} has changed since {frozen.tag}"
    if corpus_hash(model) != frozen.corpora[model]:
        return f"the corpus of {model} has changed since {frozen.tag}"
    looked_at = draw if draw < DRAWS else 0
    changed = [task for task in tasks if draw_hash(task, looked_at) != frozen.tasks[task][looked_at]]
    return f"the task {changed[0]} has changed since {frozen.tag}" if changed else None


def refusal(manifest: Mapping[str, Any], tasks: Sequence[str], frozen: Frozen) -> str | None:
    """Why a record, by its manifest, is not of this freeze; None if it is. `tasks`: all that it was evaluated on.

    Weights are compared where the base is shipped. Other base seeds are made again on every machine, where other
    hardware rounds otherwise: of them only the recipe has to agree. Code is compared by `unrelated`; here a record is
    refused if its code was no commit's. Where that is not known (an installed package), it is accepted.
    """
    model, seed = manifest["model"], manifest["seeds"]["base"]
    name = model.get("name")
    trainer, git = manifest.get("parts", {}).get("trainer"), manifest.get("git")
    if trainer is not None:
        return f"its weights were not trained: {trainer}"
    if git is not None and git["dirty"]:
        return f"it was made with changed code: uncommitted changes to {git['commit'][:12]}"
    if any(resumption["git"] != git for resumption in manifest.get("resumed", [])):
        return "it was resumed with other code than that it began with"
    if "laboratory" not in manifest:
        return "it does not say which laboratory it was made in (an older record)"
    if manifest["laboratory"] is None:
        reason = manifest.get("laboratory_reason")
        return reason or "its model or its tasks are not the miniature's, or not those of the freeze at that time"
    if manifest["laboratory"] != frozen.content_hash():
        return f"it was made in laboratory {manifest['laboratory']}, not {frozen.tag} ({frozen.content_hash()})"
    if name not in frozen.recipes:
        return f"its model {name} is not in the freeze {frozen.tag}"
    if f"{name}-seed{seed}" in frozen.weights and model["weights"] != frozen.weights[f"{name}-seed{seed}"]:
        return f"its weights of {name}, base seed {seed}, are not those of {frozen.tag}"
    if model["recipe"] != frozen.recipes[name]:
        return f"its base {name}, seed {seed}, was made by another recipe than that of {frozen.tag}"
    unknown = [task for task in tasks if task not in frozen.tasks]
    return f"its task {unknown[0]} is not in the freeze {frozen.tag}" if unknown else None


def unrelated(commits: Iterable[str], tag: str, source: Path = SOURCE) -> list[str] | None:
    """Which of the commits are neither the freeze's nor its descendants.

    The freeze's commit is the tag's, or where there is no such tag (clones may lack it) the last that changed
    frozen.json. None where neither is there, or git cannot tell: not a checkout of `source` itself, a shallow clone.
    """
    if _git(source, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    tagged = _git(source, "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}")
    tagged = tagged or _git(source, "log", "-1", "--format=%H", "--", f"{PATH.parent.name}/{PATH.name}") or None
    if tagged is None or _git(source, "rev-parse", "--is-shallow-repository") != "false":
        return None

    def descends(commit: str) -> bool:
        # What a record calls a commit may be anything, even an option of git.
        named = re.fullmatch(r"[0-9a-f]{40,64}", commit) is not None
        return named and _git(source, "merge-base", "--is-ancestor", tagged, commit) is not None

    return [commit for commit in dict.fromkeys(commits) if not descends(commit)]


def _git(source: Path, *arguments: str) -> str | None:
    """What a git command prints, without the final newline; None if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.rstrip("\n")


def _shipped() -> list[Path]:
    return sorted(path.parent for path in (MINIATURE / "weights").glob("*/model.safetensors"))


def _made(base: Path) -> dict[str, Any]:
    path = base / "recipe.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _recipe_of(base: Path) -> str:
    return base.name.rpartition("-seed")[0]


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


app = typer.Typer(help="The freeze of the miniature laboratory.", add_completion=False, pretty_exceptions_enable=False)


@app.command("freeze")
def freeze_command(tag: Annotated[str, typer.Argument(help="git tag that the commit will get, as lab-v1")]) -> None:
    """Write frozen.json from the package as it is."""
    print(f"{PATH}: laboratory {freeze(tag).content_hash()}; commit it, then `git tag {tag}`")


@app.command("check")
def check_command() -> None:
    """Compare the package with frozen.json. Exits with 2, naming what changed, if they differ."""
    frozen = read()
    changed = differences(frozen, package_state(frozen.tag))
    if changed:
        raise UserError(f"the package is not as frozen in {frozen.tag}: {'; '.join(changed)}")
    print(f"the package is as frozen in {frozen.tag} (laboratory {frozen.content_hash()})")


if __name__ == "__main__":
    with in_one_line("laboratory"):
        app()
