"""Interchangeable parts of an experiment: algorithms and rewards, of this package or of another one.

A part is a pydantic model: its fields are its settings in the YAML, its methods what it does. In an experiment it is
given by name (`algorithm: rloo`) or with settings (`algorithm: {name: ppo, gae_lambda: 0.95}`). Another package adds
parts through entry points: the group says of which kind, the entry's name is the part's, its object the class.

    [project.entry-points."ttrl_repro.rewards"]
    shortest = "my_package.rewards:Shortest"
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

OURS = __name__.partition(".")[0]


class Strict(BaseModel):
    """Settings that accept no unknown field and do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(Strict):
    """A part's settings. A subclass gives `name` a Literal with that default."""

    name: str

    def changed(self) -> dict[str, Any]:
        """The settings that are no defaults, without the name; of another package's part all, and where it is from.

        Our defaults do not change, another package's may, under the same name.
        """
        kind = type(self)
        if kind.__module__.partition(".")[0] == OURS:
            return self.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
        return {**self.model_dump(mode="json", exclude={"name"}), "class": f"{kind.__module__}:{kind.__qualname__}"}

    def label(self) -> str:
        """The name, and what is set."""
        changed = self.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
        settings = ", ".join(f"{key}={json.dumps(value)}" for key, value in changed.items())
        return f"{self.name} ({settings})" if settings else self.name


P = TypeVar("P", bound=Part)


class Registry(Generic[P]):
    """The parts of one kind by name: this package's, and those that other packages register."""

    def __init__(self, kind: str, base: type[P], own: Sequence[type[P]]) -> None:
        self.kind, self.base = kind, base
        self.own = {str(part.model_fields["name"].default): part for part in own}

    @property
    def group(self) -> str:
        """The entry points' group."""
        return f"ttrl_repro.{self.kind}s"

    def names(self) -> list[str]:
        """Every known name, ours first."""
        return [*self.own, *sorted(point.name for point in entry_points(group=self.group))]

    def get(self, name: str) -> type[P]:
        """The class of that name. Raises ValueError if there is none, or if another package's does not fit."""
        found = [point for point in entry_points(group=self.group) if point.name == name]
        if len(found) + (name in self.own) > 1:
            origins = ", ".join(sorted(point.value for point in found))
            raise ValueError(f"more than one {self.kind} is called {name!r}: {origins}; uninstall or rename one")
        if name in self.own:
            return self.own[name]
        if not found:
            raise ValueError(f"unknown {self.kind} {name!r}; known: {', '.join(map(repr, self.names()))}")
        try:
            part = found[0].load()
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{self.kind} {name!r} of {found[0].value} cannot be loaded: {error}") from error
        if not (isinstance(part, type) and issubclass(part, self.base)):
            raise ValueError(f"{found[0].value} is no subclass of {self.base.__module__}.{self.base.__name__}")
        own_name = part.model_fields["name"].default
        if own_name != name:
            raise ValueError(f"{found[0].value} is called {own_name!r}, its entry point {name!r}; they must agree")
        return part

    def origin(self, name: str) -> str | None:
        """Package, version and class of another package's part; None for our own."""
        for point in entry_points(group=self.group):
            if point.name == name and name not in self.own:
                package = f"{point.dist.name} {point.dist.version}, " if point.dist else ""
                return f"{package}{point.value}"
        return None

    def make(self, given: object) -> P:
        """A part from its name, or from a mapping of `name` and settings. Raises ValueError for anything else."""
        if isinstance(given, self.base):
            return given
        fields = {"name": given} if isinstance(given, str) else given
        if not isinstance(fields, Mapping) or not isinstance(fields.get("name", ""), str):
            raise ValueError("expected a name, or a mapping of a name and settings")
        name = fields.get("name", next(iter(self.own)))
        part = self.get(name)
        try:
            return part.model_validate(dict(fields))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(at) for at in first["loc"])
            if first["type"] == "extra_forbidden":
                known = ", ".join(field for field in part.model_fields if field != "name") or "none"
                raise ValueError(f"{where}: unknown setting of {name!r}; known: {known}") from None
            if first["type"] == "missing":
                raise ValueError(f"{name!r} needs a setting: {{name: {name}, {where}: ...}}") from None
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"{where}: {message}" if where else message) from None
