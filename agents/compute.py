"""What the arms of a run cost to play: MACs per clip by part, latency and memory, and what glimpsing saves.

    python -m agents.compute RUN [--weights FILE]

MACs of the policy's parts are counted while it plays test clips (agents/cost/macs.py says how); those of the CNN on one
whole frame, times T, with the weights that the run's features were made with. A precomputed cube has paid for the CNN
already, and looking at fewer of its slices cannot take that back.

Where windows slide over videos, a clip is a window. Memory is that of a fresh process:
weights, clips as read, and the work.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import tyro

from glimpse_env import ClipSource

from .cost.latency import (
    Latency,
    in_fresh_process,
    memory_of_frames,
    memory_of_playing,
    time_frames,
    time_playing,
)
from .cost.macs import Macs, macs_per_clip, macs_per_frame
from .learning.config import Config
from .playing.envs import check_device, greedy_manner, make_envs, open_splits
from .playing.rollout import Looking
from .predict import BATCH_SIZE, Recipe, load_recorded_backbone
from .runs.folder import provenance, read_json
from .runs.results import arms_on_disk, best_policy

RIVALS: tuple[Looking, ...] = ("soft", "all")  # what glimpses are held against


@dataclass(frozen=True)
class Arguments:
    """Print what the arms of a finished run cost to play, and what glimpsing saves."""

    run: tyro.conf.Positional[Path]
    """Folder of the run; its arms that are finished are counted."""
    weights: Path | None = None
    """Weights of the network that extracted the run's store; without them the CNN is left out."""
    batches: tuple[int, ...] = (1, 64)
    """How many clips are played at once."""
    repetitions: int = 5
    """Of each time, of which the median is taken."""
    device: str = "cpu"
    """"cpu", "cuda" or "cuda:1"."""
    json: Path | None = None
    """A file for the numbers."""

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise ValueError(f"batches must be of at least 1 clip, got {self.batches}")
        if self.repetitions < 1:
            raise ValueError(f"repetitions must be at least 1, got {self.repetitions}")
        if self.json is not None and not self.json.parent.is_dir():
            raise FileNotFoundError(f"--json {self.json}: there is no folder {self.json.parent}")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What playing so many clips at once takes; `memory_bytes` is None where the system does not tell."""

    clips: int
    latency: Latency
    memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class ArmCompute:
    """What one arm of a run takes."""

    macs: Macs
    batches: tuple[Batch, ...]


@dataclass(frozen=True, kw_only=True)
class CnnCompute:
    """What the network takes that makes the features, on whole frames; decoding is not in it."""

    name: str
    batch_size: int
    macs_per_frame: float
    seconds_per_frame: float
    memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What the arms of a run take; `cnn` is None where it was not asked for."""

    frames: int
    arms: dict[Looking, ArmCompute]
    cnn: CnnCompute | None

    @property
    def cnn_macs(self) -> float | None:
        """Of one clip."""
        return None if self.cnn is None else self.frames * self.cnn.macs_per_frame


def finished_arms(run: Path) -> tuple[Looking, ...]:
    """Return the arms whose files are complete, whatever the configuration lists.

    Raises:
        FileNotFoundError: there are none.
    """
    arms: tuple[Looking, ...] = get_args(Looking)
    finished = tuple(sorted(arms_on_disk(run), key=arms.index))
    if not finished:
        raise FileNotFoundError(f"no arm of {run} is finished: train it, or go on with --resume")
    return finished


def measure_arm(config: Config, run: Path, test: ClipSource, looking: Looking, arguments: Arguments) -> ArmCompute:
    """Count, time and weigh one arm."""
    policy, manner = best_policy(config, run, test, looking), greedy_manner(config, looking)

    def measured(clips: int) -> Batch:
        envs = make_envs(config, test, clips, train=False, looking=looking)
        return Batch(
            clips=clips,
            latency=time_playing(envs, policy, manner, repetitions=arguments.repetitions),
            memory_bytes=in_fresh_process(memory_of_playing, config, run, looking, clips),
        )

    envs = make_envs(config, test, max(arguments.batches), train=False, looking=looking)
    return ArmCompute(
        macs=macs_per_clip(envs, policy, manner, seed=config.seed),
        batches=tuple(measured(clips) for clips in arguments.batches),
    )


def measure_cnn(recipe: Recipe, arguments: Arguments) -> CnnCompute:
    """Count, time and weigh the network that made the run's features."""
    backbone = load_recorded_backbone(recipe, arguments.weights, arguments.device)
    frames = recipe.batch_size or BATCH_SIZE
    return CnnCompute(
        name=backbone.name,
        batch_size=frames,
        macs_per_frame=macs_per_frame(backbone),
        seconds_per_frame=time_frames(backbone, frames=frames, repetitions=arguments.repetitions),
        memory_bytes=in_fresh_process(
            memory_of_frames, recipe.backbone, arguments.weights, arguments.device, recipe.precision, frames
        ),
    )


def measure(arguments: Arguments) -> Compute:
    """Measure what the command line asks for.

    Raises:
        FileNotFoundError: the folder is not that of a run, or none of its arms is finished.
        ValueError: the device is not there, the test split is smaller than a batch, or the weights are not those that
            the run's features were made with.
    """
    config = Config.from_json(read_json(arguments.run / "config.json")["config"])
    check_device(arguments.device)
    config = dataclasses.replace(config, device=arguments.device)
    arms = finished_arms(arguments.run)
    # First, since it refuses weights that do not fit.
    cnn = None if arguments.weights is None else measure_cnn(Recipe.of_run(arguments.run), arguments)
    test = open_splits(config)["test"]
    if max(arguments.batches) > test.num_clips:
        raise ValueError(
            f"a batch of {max(arguments.batches)} clips, but the test split has {test.num_clips}: set --batches"
        )
    return Compute(
        frames=config.frames or test.num_frames,
        arms={arm: measure_arm(config, arguments.run, test, arm, arguments) for arm in arms},
        cnn=cnn,
    )


def table(compute: Compute) -> str:
    """Return the arms as a Markdown table: millions of MACs and milliseconds per clip, MB per batch."""
    batches = [batch.clips for batch in next(iter(compute.arms.values())).batches]
    heads = ["glimpses", "slices attended", "read", "CNN", "choosing", "attending", "recurrent", "head", "policy"]
    heads += ["its share"]
    for clips in batches:
        heads += [f"ms at {clips}", "network", "MB"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + [_row(name, arm, compute.cnn_macs) for name, arm in compute.arms.items()])


def _row(name: str, arm: ArmCompute, cnn_macs: float | None) -> str:
    macs = arm.macs
    parts = (macs.choosing, macs.attending, macs.recurrent, macs.head, macs.policy)
    cells = [name, f"{macs.slices_attended:.0f}", f"{macs.slices_read:.0f}", _millions(cnn_macs)]
    cells += [_millions(part) for part in parts]
    cells.append("-" if cnn_macs is None else f"{macs.policy / (macs.policy + cnn_macs):.2%}")
    for batch in arm.batches:
        cells += [f"{1e3 * batch.latency.seconds:.2f}", f"{1e3 * batch.latency.network_seconds:.2f}"]
        cells.append("-" if batch.memory_bytes is None else f"{batch.memory_bytes / 1e6:.0f}")
    return "| " + " | ".join(cells) + " |"


def answer(compute: Compute) -> str:
    """Say what glimpsing saves on precomputed cubes and end to end, as far as the arms and the CNN were measured."""
    if "learned" not in compute.arms:
        return "The learned policy is not finished: there is nothing to hold against the others."
    learned = compute.arms["learned"].macs
    rivals = {arm: compute.arms[arm].macs for arm in RIVALS if arm in compute.arms}
    reads_more = learned.slices_read > learned.slices_attended
    lines = [
        f"On precomputed cubes the learned glimpses take {_millions(learned.policy)} million MACs a clip, "
        f"{learned.choosing / learned.policy:.1%} of them to choose; "
        f"they attend to {learned.slices_attended:.0f} slices"
        + (f", but score and so read {learned.slices_read:.0f}." if reads_more else " and read no other.")
    ]
    for name, rival in rivals.items():
        lines.append(
            f"Against {name!r}, which reads {rival.slices_read:.0f}: {_change(learned.policy, rival.policy)}; "
            f"attention alone takes {_millions(learned.attention)} million, there {_millions(rival.attention)} million."
        )
    return "\n".join([*lines, _end_to_end(compute, learned, rivals)])


def _end_to_end(compute: Compute, learned: Macs, rivals: dict[Looking, Macs]) -> str:
    cnn, macs = compute.cnn, compute.cnn_macs
    if cnn is None or macs is None:
        return "End to end is not counted without the CNN: give --weights where the features come from one."
    changes = "".join(
        f"; {_change(macs + learned.policy, macs + rival.policy)} than {name!r}" for name, rival in rivals.items()
    )
    return (
        f"End to end {cnn.name} sees whole frames in every arm, {_millions(macs)} million MACs and "
        f"{1e3 * compute.frames * cnn.seconds_per_frame:.0f} ms a clip, "
        f"{macs / (macs + learned.policy):.2%} of all MACs{changes}."
    )


def _change(value: float, base: float) -> str:
    return f"{100 * abs(value / base - 1):.3g}% {'more' if value > base else 'fewer'} MACs"


def _millions(macs: float | None) -> str:
    return "-" if macs is None else f"{macs / 1e6:,.2f}"


def to_json(compute: Compute) -> dict[str, Any]:
    """Return the numbers with the versions and the machine that they belong to."""
    return {"provenance": provenance(), **dataclasses.asdict(compute)}


def main(arguments: Arguments) -> None:
    """Print the table and the answer, and write the numbers if asked to."""
    compute = measure(arguments)
    print(f"{arguments.device}, {torch.get_num_threads()} threads; MACs in millions a clip, ms a clip, MB of a batch")
    print(f"\n{table(compute)}\n")
    if compute.cnn is not None:
        memory = "" if compute.cnn.memory_bytes is None else f", {compute.cnn.memory_bytes / 1e6:.0f} MB"
        print(
            f"{compute.cnn.name}: {_millions(compute.cnn.macs_per_frame)} million MACs and "
            f"{1e3 * compute.cnn.seconds_per_frame:.1f} ms a frame, in batches of {compute.cnn.batch_size}{memory}\n"
        )
    print(answer(compute))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(to_json(compute), indent=1) + "\n", encoding="utf-8")


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line."""
    return tyro.cli(Arguments, args=arguments, prog="python -m agents.compute")


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        sys.exit(f"error: {error}")
