"""The names under which clip sources can be asked for."""

from __future__ import annotations

import importlib
from pathlib import Path

from gymnasium.error import DependencyNotInstalled

from glimpse_env.sources.protocol import ClipSource
from glimpse_env.sources.synthetic import SyntheticSource, UntrimmedSyntheticSource
from glimpse_env.sources.windows import SlidingWindows
from glimpse_env.store import FeatureStore

EMBEDDED = {"synthetic": SyntheticSource, "synthetic-untrimmed": UntrimmedSyntheticSource}
LAZY = "lazy:"


def open_source(
    source: str | ClipSource,
    *,
    split: str = "train",
    fold: int = 1,
    window_seconds: float | None = None,
    stride_seconds: float | None = None,
) -> ClipSource:
    """Return one split of an embedded source, of the feature store at a path, or with "lazy:" before the path of the
    videos described there, whose features are computed on demand; a ClipSource is returned as it is.
    With `window_seconds`, the windows that slide over its clips (`SlidingWindows`).

    Raises:
        DependencyNotInstalled: a lazy source lacks torch or a decoder.
        FileNotFoundError: there is no store or description at the path.
        TypeError: `source` is neither a string nor a ClipSource.
        ValueError: the source has no such split or fold, or there are no such windows.
    """
    if window_seconds is None and stride_seconds is not None:
        raise ValueError(f"stride_seconds ({stride_seconds}) is of windows: set window_seconds too")
    clips = source if isinstance(source, ClipSource) else _open_named(source, split, fold)
    if window_seconds is None:
        return clips
    return SlidingWindows(source=clips, window_seconds=window_seconds, stride_seconds=stride_seconds)


def _open_named(source: str, split: str, fold: int) -> ClipSource:
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"source must be {' or '.join(map(repr, EMBEDDED))}, a feature store's path, "
            f"{LAZY!r} and the path of a description, or a ClipSource, got {source!r}"
        )
    if source in EMBEDDED:
        if fold != 1:
            raise ValueError(f"the {source} source has one fold only: fold must be 1, got {fold}")
        return EMBEDDED[str(source)](split=split)
    if str(source).startswith(LAZY):
        return _open_lazy(Path(str(source).removeprefix(LAZY)), split, fold)
    if not Path(source).exists():
        raise FileNotFoundError(
            f"no source {str(source)!r}: it is neither {' nor '.join(map(repr, EMBEDDED))} nor an existing feature "
            "store; write a store with python -m glimpse_env.extract"
        )
    return FeatureStore.open(Path(source)).split(split, fold=fold)


def _open_lazy(path: Path, split: str, fold: int) -> ClipSource:
    try:
        lazy = importlib.import_module("glimpse_env.video.lazy")  # nothing else here needs torch
    except ModuleNotFoundError as error:
        raise DependencyNotInstalled(f'a lazy source needs {error.name}: pip install "videoglimpse[video]"') from error
    source: ClipSource = lazy.LazySource(path, split=split, fold=fold)
    return source
