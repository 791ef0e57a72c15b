"""What the guarded worker replies."""

from __future__ import annotations

from typing import Literal, NamedTuple

Outcome = Literal["parsed", "text", "parse_error", "parse_timeout"]


class Reply(NamedTuple):
    """key: None if the answer is not mathematics, or no one could read it (`outcome` says which)."""

    key: str | None
    outcome: Outcome
