"""Print the versions, the registered environments and the extras: `python -m glimpse_env`."""

from __future__ import annotations

import platform
import re
from collections import defaultdict
from importlib import metadata

import gymnasium
import numpy as np

import glimpse_env


def versions_by_extra() -> dict[str, dict[str, str]]:
    """Return for each optional extra of this distribution its packages with their versions, or "missing"."""
    versions: dict[str, dict[str, str]] = defaultdict(dict)
    for requirement in metadata.requires("videoglimpse") or []:
        (name,) = re.findall(r"^[\w.-]+", requirement)
        extra = re.search(r"""extra == ["']([\w-]+)""", requirement)
        if extra and name != "videoglimpse":  # an extra of extras, such as "all"
            try:
                versions[extra[1]][name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                versions[extra[1]][name] = "missing"
    return dict(versions)


def main() -> None:
    """Run the command line."""
    rows = {"videoglimpse": glimpse_env.__version__, "python": platform.python_version()}
    rows |= {"gymnasium": gymnasium.__version__, "numpy": np.__version__}
    rows["environments"] = ", ".join(glimpse_env.VARIANTS)
    try:
        for extra, versions in versions_by_extra().items():
            rows[f"extra {extra}"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    except metadata.PackageNotFoundError:
        rows["extras"] = 'unknown, since the package is not installed (pip install -e ".[all]")'
    for name, value in rows.items():
        print(f"{name:18} {value}")


if __name__ == "__main__":
    main()
