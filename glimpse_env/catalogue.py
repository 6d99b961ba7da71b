"""The names under which clip sources can be asked for."""

from __future__ import annotations

from pathlib import Path

from glimpse_env.sources import ClipSource
from glimpse_env.store import FeatureStore
from glimpse_env.synthetic import SyntheticSource, UntrimmedSyntheticSource

EMBEDDED = {"synthetic": SyntheticSource, "synthetic-untrimmed": UntrimmedSyntheticSource}


def open_source(source: str | ClipSource, *, split: str = "train", fold: int = 1) -> ClipSource:
    """Return one split of an embedded source or of the feature store at a path; a ClipSource is returned as it is.

    Raises:
        FileNotFoundError: there is no store at the path.
        TypeError: `source` is neither a string nor a ClipSource.
        ValueError: the source has no such split or fold.
    """
    if isinstance(source, ClipSource):
        return source
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"source must be {' or '.join(map(repr, EMBEDDED))}, a feature store's path or a ClipSource, got {source!r}"
        )
    if source in EMBEDDED:
        if fold != 1:
            raise ValueError(f"the {source} source has one fold only: fold must be 1, got {fold}")
        return EMBEDDED[str(source)](split=split)
    if not Path(source).exists():
        raise FileNotFoundError(
            f"no source {str(source)!r}: it is neither {' nor '.join(map(repr, EMBEDDED))} nor an existing feature "
            "store; write a store with python -m glimpse_env.extract"
        )
    return FeatureStore.open(Path(source)).split(split, fold=fold)
