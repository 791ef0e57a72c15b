"""What came into the environment: fails if CUDA libraries did, unasked.

On a machine without a GPU a CUDA build of PyTorch works, but costs gigabytes. TTRL_CUDA=1 says that it
is wanted.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata


def cuda_packages() -> list[str]:
    """Installed distributions that only a CUDA build of PyTorch brings, sorted."""
    names = {distribution.metadata["Name"].lower() for distribution in metadata.distributions()}
    return sorted(name for name in names if name.startswith("nvidia-"))


def main() -> None:
    """Print PyTorch's build; exit with 1 if CUDA packages are installed and TTRL_CUDA is not set."""
    found = cuda_packages()
    build = metadata.version("torch")
    if found and not os.environ.get("TTRL_CUDA"):
        print(
            f"doctor: torch {build} brought {len(found)} CUDA packages ({', '.join(found[:3])}, ...). For a CPU build: "
            f"`make clean` and `make venv TORCH_INDEX=<index of CPU builds>`; to keep them: make venv TTRL_CUDA=1",
            file=sys.stderr,
        )
        raise SystemExit(1)
    print(f"doctor: torch {build}, {'CUDA' if found else 'no CUDA packages'}")


if __name__ == "__main__":
    main()
