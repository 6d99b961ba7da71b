"""Print the version, the registered environments and the installed extras: `python -m glimpse_env`."""

from __future__ import annotations

import platform
import re
from collections import defaultdict
from importlib import metadata

import gymnasium
import numpy as np

import glimpse_env


def missing_by_extra() -> dict[str, list[str]]:
    """Return for each optional extra of this distribution the packages that are not installed."""
    missing: dict[str, list[str]] = defaultdict(list)
    installed = {_normal(found.name) for found in metadata.distributions()}
    for requirement in metadata.requires("videoglimpse") or []:
        if extra := re.search(r"""extra == ["']([\w-]+)""", requirement):
            (name,) = re.findall(r"^[\w.-]+", requirement)
            missing[extra.group(1)] += [] if _normal(name) in installed else [name]
    return dict(missing)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Run the command line."""
    versions = f"Gymnasium {gymnasium.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
    print(f"videoglimpse {glimpse_env.__version__} ({versions})")
    print("environments: " + ", ".join(glimpse_env.VARIANTS))
    try:
        for extra, names in missing_by_extra().items():
            print(f"extra {extra}: " + (f"lacks {', '.join(names)}" if names else "installed"))
    except metadata.PackageNotFoundError:
        print('extras: unknown, since the package is not installed (pip install -e ".[all]")')


if __name__ == "__main__":
    main()
