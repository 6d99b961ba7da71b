"""Commands that train for long: how they end when they are stopped, and how they tell what went wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from glimpse_env.video.backbones import DeviceError
from glimpse_env.video.decode import VideoError

from ..learning.config import Config, parse_as
from ..parallel.ranks import started_ranks
from .folder import SaveError
from .signals import StoppedError

SomeConfig = TypeVar("SomeConfig", bound=Config)


def run_command(main: Callable[[SomeConfig], None], kind: type[SomeConfig]) -> None:
    """Read the command line and do what it asks in one process; stopped by a signal, say that the same command goes on.

    Raises:
        SystemExit: with 128 plus the signal, or with one line that names what is wrong.
    """
    if started_ranks() > 1:
        sys.exit(
            "error: torchrun shares the updates of one run, agents/reinforce.py: start this command without it, or "
            "several for different seeds, each with an --out of its own"
        )
    try:
        main(parse_as(kind))
    except StoppedError as stopped:
        print(f"{stopped}: give the same command again to go on", file=sys.stderr)
        sys.exit(128 + stopped.signum)
    except (ValueError, FileNotFoundError, FloatingPointError, SaveError, VideoError, DeviceError) as error:
        sys.exit(f"error: {error}")
