"""Write the description of a wall of cameras, which `source="wall:FILE"` plays.

    python -m glimpse_env.wall STORE --grid 5 --background sit stand walk --out wall.json

STORE is a feature store, or "lazy:" and the path of a store or description of videos. One camera shows an event, a clip
of a class that is not background; the others show background. No video is copied.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gymnasium.error import DependencyNotInstalled

from glimpse_env.catalogue import open_wall, read_wall, relative_source, resolve_source
from glimpse_env.files import write_atomically
from glimpse_env.sources.splits import SPLITS
from glimpse_env.terminal import escape_unprintable


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="videoglimpse wall", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="STORE", help="Store or lazy source whose clips the cameras show.")
    parser.add_argument(
        "--background",
        nargs="+",
        required=True,
        metavar="CLASS",
        help="Classes whose clips are background, not events.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write.")
    parser.add_argument(
        "--grid", type=int, default=5, metavar="K", help="Number of cameras along each side (default 5)."
    )
    parser.add_argument("--untrimmed", action="store_true", help="Let events start and end at any time.")
    parser.add_argument("--events", type=int, help="Largest number of events on an untrimmed wall (default 2).")
    parser.add_argument(
        "--frames", type=int, help="Number of frames of a wall (default: the store's; untrimmed: five times that)."
    )
    parser.add_argument(
        "--walls", type=int, nargs=3, metavar=("TRAIN", "VALIDATION", "TEST"),
        help="Numbers of walls to draw (default: 4000, 400, and one for each test event).",
    )  # fmt: skip
    parser.add_argument("--fold", type=int, help="Official split of the store (default: the environment's).")
    parser.add_argument("--seed", type=int, default=0, help="Seed of every random draw (default 0).")
    return parser.parse_args(arguments)


def is_same_wall(path: Path, settings: dict[str, Any]) -> bool:
    """Whether a file describes the wall with some settings, as `read_wall` returns them."""
    try:
        return read_wall(path) == settings
    except (ValueError, OSError):
        return False


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    escape_unprintable()
    given = parse_arguments(arguments)
    settings = {
        "source": resolve_source(given.source, Path()),
        "fold": given.fold,
        "grid": given.grid,
        "background": given.background,
        "trimmed": not given.untrimmed,
        "events": given.events,
        "frames": given.frames,
        "walls": dict(zip(SPLITS, given.walls, strict=True)) if given.walls else None,
        "seed": given.seed,
    }
    try:
        walls = {split: open_wall(settings, split=split) for split in SPLITS}
        kept = {name: value for name, value in settings.items() if value is not None}
        kept["source"] = relative_source(given.source, given.out.parent)
        if not given.out.exists():
            write_atomically(given.out, (json.dumps(kept, indent=1) + "\n").encode())
        elif not is_same_wall(given.out, kept | {"source": settings["source"]}):
            raise FileExistsError(f"--out {given.out} exists: delete it, or choose another file")
    except (ValueError, OSError, DependencyNotInstalled) as error:
        raise SystemExit(f"error: {error}") from None
    wall = walls["train"]
    counts = ", ".join(f"{split} {opened.num_clips}" for split, opened in walls.items())
    print(f"{given.out}: {wall.grid_size} x {wall.grid_size} cameras, {wall.num_frames} frames, {counts}")
    print(f"{len(wall.class_names)} classes: {', '.join(wall.class_names)}")


if __name__ == "__main__":
    main()
