"""Reading the YAML files that people write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ttrl_repro.errors import UserError


def read_yaml(path: Path, what: str) -> Any:
    """A file's content; `what` it holds is for the message. Raises UserError if it cannot be read, or is no YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the {what}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
