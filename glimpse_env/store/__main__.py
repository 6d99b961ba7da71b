"""The feature store's command line: `python -m glimpse_env.store verify|info|merge`."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from glimpse_env.store.manifest import SPLIT_CODES, StoreError
from glimpse_env.store.merge import merge_stores
from glimpse_env.store.reader import FeatureStore
from glimpse_env.terminal import escape_unprintable, one_interrupt


def verify(path: Path) -> None:
    """Read every file of a store and compare its checksum.

    Args:
        path: Folder of the store.
    """
    store = FeatureStore.open(path)
    for name in store.verify():
        print(f"ok  {name}")
    print(f"{path}: all {len(store.files)} files are as they were written")


def info(path: Path) -> None:
    """Print the contents of a store.

    Args:
        path: Folder of the store.
    """
    store = FeatureStore.open(path)
    rows = {name: ", ".join(v) if isinstance(v, tuple) else v for name, v in asdict(store.manifest).items()}
    rows["decoded by"] = ", ".join(f"{name} {count}" for name, count in sorted(Counter(store.decoders()).items()))
    rows["clips"] = f"{len(store.index['clip_ids'])}, {store.index['num_frames'].sum()} frames"
    for fold, codes in enumerate(store.index["splits"], start=1):
        counts = (f"{name} {(codes == code).sum()}" for name, code in SPLIT_CODES.items() if name)
        rows[f"fold {fold}"] = ", ".join(counts)
    rows["bytes"] = sum(file["bytes"] for file in store.files.values())
    for name, value in rows.items():
        print(f"{name:18} {value}")


def merge(
    out: Annotated[Path, tyro.conf.arg(metavar="OUT")],
    stores: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="STORE STORE [...]")],
) -> None:
    """Join complete stores, such as parts of one data set from several machines, into a new one.

    Args:
        out: Folder of the new store.
        stores: Folders of the stores to join, two or more.
    """
    merge_stores(out, stores)
    info(out)


@one_interrupt()
def main() -> None:
    """Run the command line: `verify DIR`, `info DIR` or `merge OUT DIR DIR [...]`."""
    escape_unprintable()
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"verify": verify, "info": info, "merge": merge},
            prog="videoglimpse store",
            description="Look into feature stores, or join them.",
            config=(tyro.conf.PositionalRequiredArgs,),
        )
    except (StoreError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        print("stopped: no store was changed; run the same command again", file=sys.stderr)
        raise SystemExit(130) from None  # as a shell reports SIGINT


if __name__ == "__main__":
    main()
