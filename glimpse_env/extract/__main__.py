"""Videos in, a feature store out: decode at a fixed rate, run a network, keep the cubes.

    python -m glimpse_env.extract hmdb51 --videos DIR --splits DIR --weights FILE --out STORE
    python -m glimpse_env.extract ucf101 --videos DIR --splits DIR --weights FILE --out STORE
    python -m glimpse_env.extract activitynet --videos DIR --annotations FILE --weights FILE --out STORE
    python -m glimpse_env.extract folder --videos DIR --weights FILE --out STORE

After an interruption the same command resumes, and gives the same store; it repeats one shard at most. Unreadable
videos, also those on which a decoder crashes or hangs, are named, listed in the store's report.json and skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from shlex import quote

import tyro

from glimpse_env.datasets import DatasetError
from glimpse_env.extract.run import extract
from glimpse_env.extract.settings import COMMANDS, Settings
from glimpse_env.store import StoreError
from glimpse_env.terminal import escape_unprintable, join_help_lines, one_interrupt
from glimpse_env.video.backbones import BackboneError, DeviceError
from glimpse_env.video.readers import DecoderError


def parse_arguments(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line: a data set and its settings."""
    for kind in COMMANDS.values():
        join_help_lines(kind)
    settings: Settings = tyro.extras.subcommand_cli_from_dict(
        {**COMMANDS}, args=arguments, prog="videoglimpse extract", description=__doc__
    )
    return settings


@one_interrupt()
def main() -> None:
    """Run the command line."""
    escape_unprintable()
    settings = parse_arguments()
    try:
        out = extract(settings)
    except (DatasetError, DecoderError, BackboneError, DeviceError, StoreError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        print("stopped: finished shards are kept; to continue, run the same command again", file=sys.stderr)
        raise SystemExit(130) from None  # as a shell reports SIGINT
    if not settings.dry_run:
        print(f"Next: videoglimpse train --source {quote(str(out))}")


if __name__ == "__main__":
    main()
