"""Print the pins of this environment: ``python -m tests.tools.lock > constraints.txt``.

Names and versions only: where they come from is the business of each machine's package index.
"""

from __future__ import annotations

import importlib.metadata

from packaging.utils import canonicalize_name

_NOT_PINNED = {"pip", "setuptools", "wheel", "oraculo-kit"}


def main() -> None:
    """Print one pin per installed distribution, sorted."""
    found = {
        canonicalize_name(distribution.metadata["Name"]): distribution.version.partition("+")[0]
        for distribution in importlib.metadata.distributions()
    }
    print("# Versions for development; `make lock` writes this file from the environment in .venv.")
    for name in sorted(set(found) - _NOT_PINNED):
        print(f"{name}=={found[name]}")


if __name__ == "__main__":
    main()
