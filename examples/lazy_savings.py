"""Measure what looking saves when the network runs only where a policy looks: accuracy against work and time.

    python agents/reinforce.py --source stores/crops --observation glimpsed --glimpses 1 --out runs/crops1
    python agents/reinforce.py --source stores/cubes --glimpses 5 --out runs/cubes5
    python examples/lazy_savings.py runs/crops1 runs/cubes5 --arms learned random

Each run's test split is played on the videos themselves, through the `lazy.json` beside its store. For a store of crops
the network sees a clip's first frame and then the crops that are looked at; for one of whole frames it sees every frame
once, whatever the policy looks at: that is the full-cube pipeline. Nothing is taken from the stores' features.

What was measured is kept as savings.json beside an arm's evaluation.json: the same command goes on after an
interruption, and puts runs that were measured earlier into the table as they are. Remove the file to measure anew.

MACs (multiplications with their addition) are counted by torch's FlopCounterMode: of one frame and one crop through
the network, times those that were run, and of a policy's own work on one clip. Seconds include decoding.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from agents.building import greedy_manner, make_envs
from agents.compute import finished_arms
from agents.config import Config
from agents.evaluation import evaluate, play_split
from agents.playing import policy_of
from agents.policy import GlimpsePolicy
from agents.results import EVALUATION_ENVS, arm_folder, best_policy
from agents.rollout import Looking
from agents.runs import provenance, read_json, write_json
from glimpse_env import open_source
from glimpse_env.catalogue import LAZY
from glimpse_env.decode import FRAME_SIZE
from glimpse_env.files import write_atomically
from glimpse_env.lazy import LazySource
from glimpse_env.memory import keep_freed_memory

GIGA = 1e9


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure accuracy, work and time of finished runs on the videos themselves."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs on stores of crops or of whole frames."""
    arms: tuple[Looking, ...] = ("learned",)
    """Which arms of them to measure, as far as a run has finished them."""
    clips_alone: int = 20
    """Test clips to play one by one, for the time that a single environment takes."""
    out: Path = Path("lazy_savings")
    """Writes <out>.csv and <out>.png."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm of one run; counts, work and seconds are means over clips.

    Attributes:
        first_frame_accuracy: had every episode ended after its first frame, which is seen whole.
        clips_alone: how many clips `seconds_alone` is a mean of.
    """

    run: str
    arm: str
    sees: str
    glimpses: float
    accuracy: float
    first_frame_accuracy: float
    frames: float
    crops: float
    network_gmacs: float
    policy_gmacs: float
    seconds_alone: float
    seconds_together: float
    decoding_seconds: float
    clips_alone: int
    machine: str
    threads: int
    git_commit: str | None

    @property
    def gmacs(self) -> float:
        return self.network_gmacs + self.policy_gmacs


def count_macs(work: Callable[[], object]) -> float:
    """Return the multiply-adds that a piece of work takes."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 2


def network_macs(source: LazySource) -> tuple[float, float]:
    """Return the multiply-adds of one whole frame and of one crop."""

    def of_picture(side: int) -> float:
        picture = torch.zeros(1, side, side, 3, dtype=torch.uint8)
        return count_macs(lambda: source.backbone.cubes(picture))

    return of_picture(FRAME_SIZE), 0.0 if source.crop is None else of_picture(source.crop)


def play_alone(
    config: Config, source: LazySource, policy: GlimpsePolicy, arm: Looking, clips: int
) -> tuple[float, float]:
    """Play clips one by one, each for the first time.

    Returns:
        mean seconds of a clip, and the multiply-adds of the policy alone on one.
    """
    envs, manner = make_envs(config, source, 1, train=False, looking=arm), greedy_manner(config, arm)

    def play_clip(clip: int) -> None:
        generator = torch.Generator(config.device).manual_seed(config.seed)
        policy_of(arm)(envs, policy, np.array([clip]), manner, generator=generator, seed=config.seed)

    chosen = np.unique(np.linspace(0, source.num_clips - 1, clips).astype(int)).tolist()
    play_clip(chosen[0])
    computed = source.frames_computed, source.crops_computed
    macs = count_macs(lambda: play_clip(chosen[0]))  # the same looks again: all is in memory
    assert computed == (source.frames_computed, source.crops_computed)
    source.forget()
    begun = time.perf_counter()
    for clip in chosen:
        play_clip(clip)
    return (time.perf_counter() - begun) / len(chosen), macs


def open_test(config: Config) -> LazySource:
    """Open a run's test clips as videos."""
    path = config.source if config.source.startswith(LAZY) else LAZY + config.source
    source = open_source(path, split="test", fold=config.fold)
    assert isinstance(source, LazySource)
    return source


def row_of(run: Path, arm: Looking, clips_alone: int) -> Row:
    """Return what was measured of an arm earlier, or measure it and keep it."""
    path = arm_folder(run, arm) / "savings.json"
    if path.exists():
        row = Row(**(read_json(path) | {"run": str(run)}))
        if row.clips_alone == clips_alone:
            return row
    row = measure(run, arm, clips_alone)
    write_json(path, dataclasses.asdict(row))
    return row


def measure(run: Path, arm: Looking, clips_alone: int) -> Row:
    """Play the test split of a run on the videos, all clips together and some of them alone."""
    config = Config.from_json(read_json(run / "config.json")["config"])
    source = open_test(config)
    policy = best_policy(config, run, source, arm)
    seconds_alone, policy_macs = play_alone(config, source, policy, arm, clips_alone)
    source = open_test(config)  # counts and remembers nothing yet
    envs = make_envs(config, source, min(EVALUATION_ENVS, source.num_clips), train=False, looking=arm)
    manner, clips, frames, crops, seconds = greedy_manner(config, arm), 0, 0.0, 0.0, 0.0
    begun = time.perf_counter()
    for _, valid in play_split(envs, policy, manner, seed=config.seed):
        if valid < envs.num_envs:
            break  # filled up with copies of a clip, whose looks may differ
        clips += valid
        frames, crops = source.frames_computed / clips, source.crops_computed / clips
        seconds = time.perf_counter() - begun
    decoding = sum(source.stopwatch.seconds[name] for name in ("decode", "resize")) / clips
    evaluation = evaluate(envs, policy, manner, seed=config.seed, video_score=config.video_score)
    a_frame, a_crop = network_macs(source)
    made = provenance()
    return Row(
        run=str(run),
        arm=arm,
        sees="whole frames" if source.crop is None else f"crops of {source.crop}",
        glimpses=evaluation.glimpses_per_frame,
        accuracy=evaluation.accuracy,
        first_frame_accuracy=evaluation.accuracy_by_frames[0],
        frames=frames,
        crops=crops,
        network_gmacs=(frames * a_frame + crops * a_crop) / GIGA,
        policy_gmacs=policy_macs / GIGA,
        seconds_alone=seconds_alone,
        seconds_together=seconds / clips,
        decoding_seconds=decoding,
        clips_alone=clips_alone,
        machine=made["machine"],
        threads=made["threads"],
        git_commit=made["git_commit"],
    )


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out in Markdown."""
    lines = [
        "| run | arm | network sees | m | accuracy | after frame 1 | frames | crops | GMACs a clip | of the policy | "
        f"s a clip, alone | {EVALUATION_ENVS} together | of it decoding |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.run} | {row.arm} | {row.sees} | {row.glimpses:g} | {row.accuracy:.3f} | "
            f"{row.first_frame_accuracy:.3f} | {row.frames:.1f} | {row.crops:.1f} | {row.gmacs:.2f} | "
            f"{row.policy_gmacs:.3f} | {row.seconds_alone:.3f} | {row.seconds_together:.3f} | "
            f"{row.decoding_seconds:.3f} |"
        )
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw accuracy against work, and against time."""
    figure, panels = plt.subplots(1, 3, figsize=(13, 4), sharey=True, layout="constrained")
    shown: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("GMACs a clip, network and policy", lambda row: row.gmacs),
        ("seconds a clip, alone", lambda row: row.seconds_alone),
        (f"seconds a clip, {EVALUATION_ENVS} together", lambda row: row.seconds_together),
    )
    groups = dict.fromkeys((row.sees, row.arm) for row in rows)
    for axes, (label, value) in zip(panels, shown, strict=True):
        for sees, arm in groups:
            own = sorted((row for row in rows if (row.sees, row.arm) == (sees, arm)), key=value)
            axes.plot([value(row) for row in own], [row.accuracy for row in own], "o-", label=f"{sees}, {arm}")
            for row in own:
                axes.annotate(f"m = {row.glimpses:g}", (value(row), row.accuracy), fontsize=8)
        axes.set(xlabel=label, xlim=(0, None))
    panels[0].set_ylabel("test accuracy")
    panels[0].legend()
    figure.savefig(path, dpi=110)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write the rows, atomically."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(dataclasses.asdict, rows))
    write_atomically(path, buffer.getvalue().encode())


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    if not arguments.out.parent.is_dir():
        raise FileNotFoundError(f"--out {arguments.out}: there is no folder {arguments.out.parent}")
    asked = [(run, arm) for run in arguments.runs for arm in finished_arms(run) if arm in arguments.arms]
    if not asked:
        raise ValueError(f"none of the runs has finished an arm of {', '.join(arguments.arms)}")
    keep_freed_memory()
    rows = []
    for run, arm in tqdm(asked, desc="arms", disable=None):
        rows.append(row_of(run, arm, arguments.clips_alone))
        tqdm.write(table(rows[-1:]).splitlines()[-1], file=sys.stderr)
    write_csv(rows, arguments.out.with_suffix(".csv"))
    draw(rows, arguments.out.with_suffix(".png"))
    print(table(rows))
    for machine, threads, commit in dict.fromkeys((row.machine, row.threads, row.git_commit) for row in rows):
        print(f"\n{machine}, {threads} threads, code {commit}")
    print(f"wrote {arguments.out}.csv and {arguments.out}.png")


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments, prog="python examples/lazy_savings.py"))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
