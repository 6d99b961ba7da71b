"""Command lines: how they are composed, parsed and ended."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args

import tyro
from gymnasium.error import DependencyNotInstalled

from glimpse_env.terminal import escape_unprintable, join_help_lines, one_interrupt
from glimpse_env.video.backbones import DeviceError
from glimpse_env.video.decode import VideoError
from glimpse_env.video.readers import DecoderError

from ..learning.config import Config, PolicyConfig, Preset, TaskConfig, TrainingConfig
from ..learning.models import ModelName
from ..learning.presets import preset_for
from ..parallel.ranks import RankLostError, local_rank, started_ranks
from .folder import find_run
from .signals import StoppedError

Output = TypeVar("Output")
Flags = TypeVar("Flags")
ERRORS = (
    ValueError, OSError, FloatingPointError, ModuleNotFoundError, DependencyNotInstalled, VideoError, DecoderError,
    DeviceError, RankLostError,
)  # fmt: skip
"""Errors that end a command with one line."""


@dataclass(frozen=True, kw_only=True)
class CommandLine(Generic[Output]):
    """Flags of a command that trains: those of a configuration, and those of the command itself."""

    models: tuple[ModelName, ...]
    """Models to train, such as: reinforce random soft."""
    preset: Preset
    """Defaults: "small" for synthetic clips, "attended" for stores and walls (both by default), "features" as tuned on
    J-HMDB, "paper" for the paper's choices."""
    task: TaskConfig
    policy: PolicyConfig
    training: TrainingConfig
    output: Output
    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """Folder of a run, or its config.json, whose settings become the defaults."""
    given: Annotated[tuple[str, ...], tyro.conf.Suppress] = field(default=())
    """Names of the flags that were given."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("--models names no model: give at least one, such as reinforce")
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"--models must name each model once, got {' '.join(self.models)}")

    @property
    def config(self) -> Config:
        """Configuration of the first model; the others differ in the model alone."""
        return Config(
            preset=self.preset, model=self.models[0], task=self.task, policy=self.policy, training=self.training
        )

    def refuse_flags(self, command: str, allowed: Collection[str]) -> None:
        """Raise a ValueError that names the flags that were given and are not allowed."""
        if other := [flag for flag in self.given if flag not in allowed]:
            raise ValueError(
                f"{' '.join(other)} cannot be used with {command}, which takes the run's own settings: leave out all "
                f"flags but {' '.join(sorted(allowed))}"
            )


def parse_command(
    output: type[Output],
    arguments: Sequence[str] | None = None,
    *,
    models: tuple[ModelName, ...] = ("reinforce", "random"),
    program: str,
) -> CommandLine[Output]:
    """Read a command line. A run's config.json (--config), the preset or the source set the defaults.

    Args:
        output: dataclass of the command's own flags, all with defaults; its docstring describes the command.
        arguments: those of this process by default.
        models: default of --models.
        program: name that the help shows.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--preset")
    early.add_argument("--source", default="synthetic")
    early.add_argument("--config", type=Path)
    known, _ = early.parse_known_args(words)
    if known.preset not in (None, *get_args(Preset)):
        raise ValueError(f"--preset must be one of {', '.join(get_args(Preset))}, got {known.preset!r}")
    config = preset_for(known.source, known.preset)
    if known.config is not None:
        if known.preset is not None:
            raise ValueError("--config and --preset both set the defaults: give one of them")
        folder = known.config.parent if known.config.name == "config.json" else known.config
        record = find_run(folder).record()
        config = record.config
        if "--source" in words_given(words) and config.task.abstain == (not record.source.trimmed):
            # The run has the default of its own source, and another source may have another one.
            config = config.with_settings({"abstain": None})
        models = (config.model,)
    defaults: Any = CommandLine(
        models=models,
        preset=config.preset,
        task=config.task,
        policy=config.policy,
        training=config.training,
        output=output(),
        given=words_given(words),
    )
    join_help_lines(CommandLine)
    join_help_lines(output)
    parsed: CommandLine[Output] = tyro.cli(
        CommandLine[output],  # type: ignore[valid-type]
        args=words,
        default=defaults,
        prog=program,
        description=output.__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return parsed


def words_given(words: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the flags among the words of a command line."""
    return tuple(word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--"))


def parse_flags(arguments: type[Flags], words: Sequence[str] | None, *, program: str) -> Flags:
    """Read the command line of a dataclass of flags."""
    join_help_lines(arguments)
    return tyro.cli(arguments, args=words, prog=program)


@one_interrupt()
def run_command(main: Callable[[], int | None], *, ranks: bool = False) -> None:
    """Run a command, and end with its exit status, or with one line that says what is wrong.

    Several processes of torchrun may run it together only if `ranks` is set.
    """
    escape_unprintable()
    if started_ranks() > 1 and not ranks:
        sys.exit(
            "error: torchrun is for training, whose processes share the updates of one run: start this command without "
            "torchrun"
        )
    try:
        sys.exit(main())
    except StoppedError as stopped:
        if local_rank() == 0:
            print(f"{stopped}: {stopped.remedy}", file=sys.stderr, flush=True)
        sys.exit(128 + stopped.signum)
    except KeyboardInterrupt:
        print("stopped at once: a run resumes from its last saved state", file=sys.stderr, flush=True)
        sys.exit(130)
    except RankLostError as error:
        # The process that failed has printed why; one of the others is enough to say that they end too.
        sys.exit(f"error: {error}: resume with --resume" if local_rank() == 0 else 1)
    except ERRORS as error:
        sys.exit(f"error: {error}")
