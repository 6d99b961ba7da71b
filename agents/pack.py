"""Write a run into one .safetensors file: its weights, configuration, class names and results.

    python -m agents.pack RUN model.safetensors

The file names no folder of this machine. `glimpse_agents.load`, agents.predict, agents.report and `reinforce
--evaluate` take it instead of a run's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from .runs.command import parse_flags, run_command
from .runs.folder import find_run, pack


@dataclass(frozen=True)
class Arguments:
    """Write a run into one .safetensors file: its weights, configuration, class names and results."""

    run: tyro.conf.Positional[Path]
    """Run that has validated, or a folder of runs, whose "reinforce" run is packed."""
    out: tyro.conf.Positional[Path]
    """File to write."""
    overwrite: bool = False
    """Replace the file if it exists."""


def main(arguments: Arguments) -> None:
    """Write the file."""
    if arguments.out.exists() and not arguments.overwrite:
        raise FileExistsError(f"{arguments.out} exists: choose another file, or replace it with --overwrite")
    pack(find_run(arguments.run), arguments.out)
    print(f"wrote {arguments.out} ({arguments.out.stat().st_size / 1e6:.1f} MB)")


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line."""
    return parse_flags(Arguments, arguments, program="videoglimpse pack")


if __name__ == "__main__":
    run_command(lambda: main(parse_arguments()))
