"""Descriptions of videos whose features are computed on demand: JSON files, such as a store's `lazy.json`.

    {"dataset": "hmdb51", "videos": "videos", "splits": "splits", "weights": "bvlc_googlenet.safetensors",
     "crop": 64, "fps": 7.5, "frames": 8}

`dataset` is the extraction's command, and the rest are its settings, with its defaults; relative paths start at the
file's folder. An extraction adds `weights_sha256`, `min_feature` and `max_feature` (the range of the features), and
`unreadable`, the ids of clips to leave out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from glimpse_env.extract.settings import COMMANDS, Settings
from glimpse_env.store.manifest import LARGEST_HALF, Manifest
from glimpse_env.store.writer import write_changed
from glimpse_env.video.backbones import TIMM

FILE_NAME = "lazy.json"
_PATHS = ("videos", "splits", "annotations", "weights", "actor_coverage")
_NETWORK = ("backbone", "layer", "precision", "device", "crop")
_SETTINGS = (*_PATHS, *_NETWORK, "classes", "fps", "frames", "max_frames", "decoder")
_FOUND = ("weights_sha256", "min_feature", "max_feature")


@dataclass(frozen=True, kw_only=True)
class Description:
    """A data set's videos and how features are made of them."""

    settings: Settings  # of the extraction; its `out` is the description's folder
    weights_sha256: str | None = None  # of the weights file; None takes any
    min_feature: float = 0.0  # the smallest feature, if known
    max_feature: float = LARGEST_HALF  # the largest feature, if known
    unreadable: frozenset[str] = frozenset()  # ids of clips that are left out


def write_description(settings: Settings, manifest: Manifest, unreadable: Iterable[str]) -> None:
    """Write the description of a finished store into its folder."""
    settings = settings.absolute()
    (command,) = (name for name, kind in COMMANDS.items() if type(settings) is kind)
    kept = {name: getattr(settings, name) for name in _SETTINGS if hasattr(settings, name)}
    content = {
        "dataset": command,
        **{name: str(value) if isinstance(value, Path) else value for name, value in kept.items()},
        "weights_sha256": manifest.weights_sha256,
        "min_feature": manifest.min_feature,
        "max_feature": manifest.max_feature,
        "unreadable": sorted(unreadable),
    }
    write_changed(settings.out / FILE_NAME, (json.dumps(content, indent=1) + "\n").encode())


def read_description(path: Path) -> Description:
    """Read a description; `path` is its file, or a folder with a `lazy.json`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object, or a setting is unknown, missing or out of range.
    """
    file = (path / FILE_NAME if path.is_dir() else path).absolute()
    if not file.is_file():
        raise FileNotFoundError(
            f"no description of a data set at {file}: python -m glimpse_env.extract writes one into every store, and "
            "the top of glimpse_env/extract/description.py shows how to write one by hand"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return _described(content, file.parent)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{file} describes no data set: {reason}") from error


def _described(content: dict[str, Any], folder: Path) -> Description:
    command = content.pop("dataset")
    if command not in COMMANDS:
        raise ValueError(f"dataset must be one of {', '.join(COMMANDS)}, got {command!r}")
    found: dict[str, Any] = {name: content.pop(name) for name in _FOUND if name in content}
    unreadable = frozenset(content.pop("unreadable", ()))
    kind = COMMANDS[command]
    known = {field.name for field in fields(kind)} & set(_SETTINGS)
    if unknown := sorted(content.keys() - known):
        raise ValueError(f"unknown settings {unknown}: {command} takes {sorted(known)}")
    required = {field.name for field in fields(kind) if field.default is field.default_factory is MISSING}
    if missing := sorted(required & known - content.keys()):
        raise ValueError(f"{', '.join(missing)} must be given")
    given = {name: folder / value if name in _PATHS and value is not None else value for name, value in content.items()}
    if "classes" in given:
        given["classes"] = tuple(given["classes"])
    settings = kind(out=folder, **given)
    if settings.backbone.startswith(TIMM):  # only of GoogLeNet's features the least is known
        found = {"min_feature": -LARGEST_HALF} | found
    return Description(settings=settings, unreadable=unreadable, **found)
