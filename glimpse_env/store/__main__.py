"""The feature store's command line: `python -m glimpse_env.store verify|info DIR`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import tyro

from glimpse_env.store.manifest import SPLIT_CODES, StoreError
from glimpse_env.store.reader import FeatureStore


def verify(path: Path) -> None:
    """Read every file of a store and compare its checksum."""
    store = FeatureStore.open(path)
    for name in store.verify():
        print(f"ok  {name}")
    print(f"{path}: all {len(store.files)} files are as they were written")


def info(path: Path) -> None:
    """Print what a store holds."""
    store = FeatureStore.open(path)
    for name, value in asdict(store.manifest).items():
        print(f"{name:18} {', '.join(value) if isinstance(value, tuple) else value}")
    print(f"{'clips':18} {len(store.index['clip_ids'])}, {store.index['num_frames'].sum()} frames")
    for fold, codes in enumerate(store.index["splits"], start=1):
        counts = ", ".join(f"{name} {(codes == code).sum()}" for name, code in SPLIT_CODES.items() if name)
        print(f"{f'fold {fold}':18} {counts}")
    print(f"{'bytes':18} {sum(file['bytes'] for file in store.files.values())}")


def main() -> None:
    """Run the command line: `verify DIR` or `info DIR`."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"verify": verify, "info": info},
            prog="python -m glimpse_env.store",
            description="Look into a feature store.",
            config=(tyro.conf.PositionalRequiredArgs,),
        )
    except (FileNotFoundError, StoreError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
