"""Clip sources by name: synthetic sources, feature stores, videos and walls of cameras."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from gymnasium.error import DependencyNotInstalled

from glimpse_env.sources.protocol import ClipSource
from glimpse_env.sources.splits import check_split
from glimpse_env.sources.synthetic import EasySyntheticSource, SyntheticSource, UntrimmedSyntheticSource
from glimpse_env.sources.wall import WallSource
from glimpse_env.sources.windows import SlidingWindows
from glimpse_env.store import FeatureStore

EMBEDDED = {
    "synthetic": SyntheticSource,
    "synthetic-easy": EasySyntheticSource,
    "synthetic-untrimmed": UntrimmedSyntheticSource,
}
LAZY, WALL = "lazy:", "wall:"
WALL_SETTINGS = ("source", "fold", "grid", "background", "trimmed", "events", "frames", "walls", "seed")
_INNER: WeakValueDictionary[tuple[str, str, int], ClipSource] = WeakValueDictionary()  # sources that walls share


def open_source(
    source: str | ClipSource,
    *,
    split: str = "train",
    fold: int = 1,
    window_seconds: float | None = None,
    stride_seconds: float | None = None,
) -> ClipSource:
    """Open one split of a source as `VideoGlimpseEnv` does; a ClipSource is returned as it is.

    With `window_seconds`, its clips are `SlidingWindows`.

    Raises:
        DependencyNotInstalled: a lazy source lacks torch or a decoder.
        FileNotFoundError: there is no store or description at the path.
        TypeError: `source` is neither a string nor a ClipSource.
        ValueError: the source has no such split, fold or windows, or a description is wrong.
    """
    if window_seconds is None and stride_seconds is not None:
        raise ValueError(f"stride_seconds ({stride_seconds}) needs window_seconds: set it too")
    clips = source if isinstance(source, ClipSource) else _open_named(source, split, fold)
    if window_seconds is None:
        return clips
    return SlidingWindows(source=clips, window_seconds=window_seconds, stride_seconds=stride_seconds)


def resolve_source(source: str, folder: Path) -> str:
    """Return the name of a source with its path made absolute; a relative one starts at `folder`."""
    if source in EMBEDDED:
        return source
    prefix, path = split_prefix(source)
    return prefix + str((folder / path).resolve())


def relative_source(source: str, folder: Path) -> str:
    """Return the name of a source as a file in `folder` can store it: `resolve_source` reverses it.

    A relative path starts at `folder`, so that both can move together; an absolute one stays.
    """
    prefix, path = split_prefix(source)
    if source in EMBEDDED or path.is_absolute():
        return source
    relative = Path(os.path.relpath(path.absolute(), folder.absolute()))
    if (folder / relative).resolve() != path.resolve():  # a link on the way
        relative = Path(os.path.relpath(path.resolve(), folder.resolve()))
    return f"{prefix}./{relative.as_posix()}"  # no name of a synthetic source


def split_prefix(source: str) -> tuple[str, Path]:
    """Split the name of a source into its prefix, "lazy:", "wall:" or none, and its path."""
    prefix = next((prefix for prefix in (LAZY, WALL) if source.startswith(prefix)), "")
    return prefix, Path(source.removeprefix(prefix))


def read_wall(path: Path) -> dict[str, Any]:
    """Read the description of a wall, a JSON object of `WALL_SETTINGS`.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no description of a wall at {path}: write one with python -m glimpse_env.wall")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): write it again with python -m glimpse_env.wall") from error
    if not isinstance(content, dict) or not isinstance(content.get("source"), str) or "background" not in content:
        raise ValueError(f"{path} describes no wall: it must be a JSON object with a source and a background")
    if unknown := sorted(content.keys() - set(WALL_SETTINGS)):
        raise ValueError(f"{path} has unknown settings {unknown}: a wall takes {', '.join(WALL_SETTINGS)}")
    walls = content.get("walls")
    if walls is not None and not (isinstance(walls, dict) and walls.keys() <= {"train", "validation", "test"}):
        raise ValueError(f"{path}: walls must be an object with numbers for train, validation and test, got {walls!r}")
    return content | {"source": resolve_source(content["source"], path.parent)}


def open_wall(settings: dict[str, Any], *, split: str = "train", fold: int = 1) -> WallSource:
    """Open one split of a wall with settings as `read_wall` returns them.

    Raises:
        ValueError: a setting is wrong, `fold` contradicts the fold of the settings, or the source cannot be opened.
    """
    settings = dict(settings)
    name, own_fold = settings.pop("source"), settings.pop("fold", None)
    if fold not in (1, own_fold) and own_fold is not None:
        raise ValueError(f"this wall is of fold {own_fold}: leave fold out, got {fold}")
    if name.startswith(WALL):
        raise ValueError(f"a wall is made of {', '.join(EMBEDDED)}, a feature store or a lazy source, got {name!r}")
    key = (name, split, fold if own_fold is None else own_fold)
    try:
        source = _INNER[key] = _INNER.get(key) or open_source(name, split=split, fold=key[2])
    except FileNotFoundError as error:
        raise ValueError(f"the source of a wall cannot be opened: {error}") from error
    return WallSource(source, split=split, **settings)


def _open_named(source: str, split: str, fold: int) -> ClipSource:
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"source must be {', '.join(map(repr, EMBEDDED))}, the path of a feature store, {LAZY!r} or {WALL!r} and "
            f"the path of a description, or a ClipSource, got {source!r}"
        )
    if source in EMBEDDED:
        check_split(split, fold, place=f"the {source} source")
        return EMBEDDED[str(source)](split=split)
    # Absolute, because a source opens files when they are read, and the process may have changed its folder by then.
    name = resolve_source(str(source), Path())
    if name.startswith(LAZY):
        try:
            lazy = importlib.import_module("glimpse_env.video.lazy")  # nothing else here needs torch
        except ModuleNotFoundError as error:
            raise DependencyNotInstalled(
                f'a lazy source needs {error.name}: pip install "videoglimpse[video]"'
            ) from error
        videos: ClipSource = lazy.LazySource(Path(name.removeprefix(LAZY)), split=split, fold=fold)
        return videos
    if name.startswith(WALL):
        return open_wall(read_wall(Path(name.removeprefix(WALL))), split=split, fold=fold)
    if not Path(name).exists():
        raise FileNotFoundError(
            f"no source {str(source)!r}: it is neither {' nor '.join(map(repr, EMBEDDED))} nor an existing feature "
            "store; write a store with python -m glimpse_env.extract"
        )
    return FeatureStore.open(Path(name)).split(split, fold=fold)
