"""Measure accuracy against work and time if the network runs only on the cells that a policy looks at.

    pip install -e ".[agents,video]"
    python agents/reinforce.py --source stores/crops --glimpses 1 --out runs/crops1
    python agents/reinforce.py --source stores/cubes --glimpses 5 --out runs/cubes5
    python examples/lazy_savings.py runs/crops1 runs/cubes5 --models reinforce random

The test split of each run is played on the videos themselves, through the `lazy.json` next to its store. For a store of
crops, the network sees a clip's first frame and then the crops that the policy looks at. For a store of whole frames it
sees every frame once, whatever the policy looks at: the full-cube pipeline. The features of the stores are not read.

The measurements are kept as savings.json in the folder of a run. The same command resumes after an interruption. It
measures a run again only if its weights, the description of the videos, --clips-alone, the machine or the number of
threads have changed.

agents/cost/macs.py counts MACs (multiplications with their addition): of one frame and one crop through the network,
times the number of each, and of the policy's own work on one clip. Seconds include decoding.
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
from typing import Any

import numpy as np
from common import installed_by

with installed_by('pip install -e ".[agents,video]"'):
    import matplotlib.pyplot as plt
    import tyro
    from glimpse_agents.cost.macs import counting, macs_per_frame
    from glimpse_agents.learning.config import Config
    from glimpse_agents.learning.models import ModelName
    from glimpse_agents.learning.policy import GlimpsePolicy
    from glimpse_agents.parallel.noise import Noise
    from glimpse_agents.playing.envs import greedy_play, make_envs
    from glimpse_agents.playing.evaluation import EVALUATION_ENVS, evaluate, play_split
    from glimpse_agents.playing.rollout import play
    from glimpse_agents.runs.files import SaveError, read_json, write_json
    from glimpse_agents.runs.folder import RunFolder, find_runs
    from glimpse_agents.runs.provenance import provenance
    from matplotlib.ticker import NullFormatter
    from tqdm.auto import tqdm

    from glimpse_env import open_source
    from glimpse_env.catalogue import LAZY
    from glimpse_env.extract.description import FILE_NAME, read_description
    from glimpse_env.files import file_sha256, write_atomically
    from glimpse_env.video.backbones import DeviceError, keep_freed_memory
    from glimpse_env.video.decode import VideoError
    from glimpse_env.video.lazy import LazySource

GIGA = 1e9


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure accuracy, work and time of finished runs on the videos themselves."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Runs, or folders of runs, on stores of crops or of whole frames."""
    models: tuple[ModelName, ...] = ("reinforce",)
    """Models to measure, if a run has finished them."""
    clips_alone: int = 20
    """Number of test clips to play one by one, to time a single environment."""
    out: Path = Path("lazy_savings")
    """Path of the files to write, without suffix: OUT.csv and OUT.png."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("at least one run is required, such as runs/crops1")
        if self.clips_alone < 1:
            raise ValueError(f"--clips-alone must be at least 1, got {self.clips_alone}")
        if not self.out.parent.is_dir():
            raise FileNotFoundError(f"--out {self.out}: there is no folder {self.out.parent}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run; counts, work and seconds are means over clips.

    Attributes:
        first_frame_accuracy: accuracy if every episode had ended after its first frame, which is seen whole.
        made_from: the inputs that the numbers depend on, from `ingredients`.
    """

    run: str
    model: str
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
    git_commit: str | None
    made_from: dict[str, Any]

    @property
    def gmacs(self) -> float:
        return self.network_gmacs + self.policy_gmacs


def network_macs(source: LazySource) -> tuple[float, float]:
    """Return the MACs of one whole frame and of one crop."""
    return macs_per_frame(source.backbone), 0.0 if source.crop is None else macs_per_frame(source.backbone, source.crop)


def play_alone(config: Config, source: LazySource, policy: GlimpsePolicy, clips: int) -> tuple[float, float]:
    """Play clips one by one, each for the first time.

    Returns:
        mean seconds of a clip, and the MACs of the policy alone on one.
    """
    envs, settings = make_envs(config, source, 1, train=False), greedy_play(config)

    def play_clip(clip: int) -> None:
        noise = Noise.seeded(config.training.seed, policy.device)
        play(envs, policy, np.array([clip]), settings, noise=noise, seed=config.training.seed)

    chosen = np.unique(np.linspace(0, source.num_clips - 1, clips).astype(int)).tolist()
    play_clip(chosen[0])
    computed = source.frames_computed, source.crops_computed
    with counting() as total:
        play_clip(chosen[0])  # the same looks again, all in memory
        macs = total()
    assert computed == (source.frames_computed, source.crops_computed)
    source.forget()
    begun = time.perf_counter()
    for clip in chosen:
        play_clip(clip)
    return (time.perf_counter() - begun) / len(chosen), macs


def open_test(config: Config) -> LazySource:
    """Open a run's test clips as videos."""
    path = LAZY + config.task.source.removeprefix(LAZY)
    source = open_source(path, split="test", fold=config.task.fold)
    assert isinstance(source, LazySource)
    return source


def ingredients(run: RunFolder, clips_alone: int) -> dict[str, Any]:
    """Return the inputs that the numbers of a run depend on, apart from the code."""
    described = Path(run.record().config.task.source.removeprefix(LAZY))
    read_description(described)  # raises with a reason if it is damaged
    made = provenance()
    return {
        "weights_sha256": file_sha256(run.path / "best.safetensors"),
        "description_sha256": file_sha256(described / FILE_NAME if described.is_dir() else described),
        "clips_alone": clips_alone,
        "machine": made["machine"],
        "threads": made["threads"],
    }


def row_of(run: RunFolder, clips_alone: int) -> Row:
    """Return earlier measurements of a run, or measure it and keep the result."""
    path, made_from = run.path / "savings.json", ingredients(run, clips_alone)
    kept = read_json(path) if path.exists() else {}
    if kept.get("made_from") == made_from:
        return Row(**(kept | {"run": str(run.path)}))
    row = measure(run, made_from)
    write_json(path, dataclasses.asdict(row))
    return row


def measure(run: RunFolder, made_from: dict[str, Any]) -> Row:
    """Play the test split of a run on the videos, all clips together and some alone."""
    config = run.record().config
    source, seed = open_test(config), config.training.seed
    policy = run.best_policy(config, source)
    seconds_alone, policy_macs = play_alone(config, source, policy, made_from["clips_alone"])
    source = open_test(config)  # counts and remembers nothing yet
    envs = make_envs(config, source, min(EVALUATION_ENVS, source.num_clips), train=False)
    settings, clips, frames, crops, seconds, decoding = greedy_play(config), 0, 0.0, 0.0, 0.0, 0.0
    begun = time.perf_counter()
    for _, valid in play_split(envs, policy, settings, seed=seed):
        if valid < envs.num_envs:
            break  # the rest are copies of a clip, whose looks may differ
        clips += valid
        frames, crops = source.frames_computed / clips, source.crops_computed / clips
        seconds = (time.perf_counter() - begun) / clips
        decoding = sum(source.stopwatch.seconds[name] for name in ("decode", "resize")) / clips
    evaluation = evaluate(envs, policy, settings, seed=seed, video_score=config.training.advanced.video_score)
    a_frame, a_crop = network_macs(source)
    return Row(
        run=str(run.path),
        model=config.model,
        sees="whole frames" if source.crop is None else f"crops of {source.crop}",
        glimpses=evaluation.glimpses_per_frame,
        accuracy=evaluation.accuracy,
        first_frame_accuracy=evaluation.accuracy_by_frames[0],
        frames=frames,
        crops=crops,
        network_gmacs=(frames * a_frame + crops * a_crop) / GIGA,
        policy_gmacs=policy_macs / GIGA,
        seconds_alone=seconds_alone,
        seconds_together=seconds,
        decoding_seconds=decoding,
        git_commit=provenance()["git_commit"],
        made_from=made_from,
    )


def table(rows: Sequence[Row]) -> str:
    """Format the rows as a Markdown table."""
    lines = [
        "| run | model | network sees | m | accuracy | after frame 1 | frames | crops | GMACs a clip | of the policy | "
        f"s a clip, alone | {EVALUATION_ENVS} together | decoding alone |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.run} | {row.model} | {row.sees} | {row.glimpses:g} | {row.accuracy:.3f} | "
            f"{row.first_frame_accuracy:.3f} | {row.frames:.1f} | {row.crops:.1f} | {row.gmacs:.2f} | "
            f"{row.policy_gmacs:.3f} | {row.seconds_alone:.3f} | {row.seconds_together:.3f} | "
            f"{row.decoding_seconds:.3f} |"
        )
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw accuracy against work, and against time; the numbers at the points are m."""
    first_frame = float(np.mean([row.first_frame_accuracy for row in rows]))
    figure, panels = plt.subplots(1, 3, figsize=(13, 4), sharey=True, layout="constrained")
    shown: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("GMACs a clip, network and policy", lambda row: row.gmacs),
        ("seconds a clip, alone", lambda row: row.seconds_alone),
        (f"seconds a clip, {EVALUATION_ENVS} together", lambda row: row.seconds_together),
    )
    groups = dict.fromkeys((row.sees, row.model) for row in rows)
    for axes, (label, value) in zip(panels, shown, strict=True):
        for sees, model in groups:
            own = sorted((row for row in rows if (row.sees, row.model) == (sees, model)), key=lambda row: row.glimpses)
            axes.plot([value(row) for row in own], [row.accuracy for row in own], "o-", label=f"{sees}, {model}")
            for row in own:
                place = (value(row), row.accuracy)
                axes.annotate(f"{row.glimpses:g}", place, (3, 3), textcoords="offset points", fontsize=8)
        axes.axhline(first_frame, color="gray", linestyle=":", label="after the first frame, mean of all")
        axes.set(xlabel=label, xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("test accuracy")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(groups) + 1)
    figure.savefig(path, dpi=110)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write the rows, atomically."""
    buffer = io.StringIO()
    lines = [dataclasses.asdict(row) for row in rows]
    lines = [line | line.pop("made_from") for line in lines]
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(path, buffer.getvalue().encode())


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    found = [run for path in arguments.runs for run in find_runs(path)]
    asked = [run for run in found if run.record().config.model in arguments.models and run.result() is not None]
    if not asked:
        raise ValueError(f"no run has finished any of the models {', '.join(arguments.models)}")
    keep_freed_memory()
    rows = []
    for run in tqdm(asked, desc="runs", disable=None):
        rows.append(row_of(run, arguments.clips_alone))
        tqdm.write(table(rows[-1:]).splitlines()[-1], file=sys.stderr)
    write_csv(rows, Path(f"{arguments.out}.csv"))
    draw(rows, Path(f"{arguments.out}.png"))
    print(table(rows))
    made_from, commits = rows[0].made_from, dict.fromkeys(str(row.git_commit) for row in rows)
    print(f"\n{made_from['machine']}, {made_from['threads']} threads, code {', '.join(commits)}")
    print(f"wrote {arguments.out}.csv and {arguments.out}.png")


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    return tyro.cli(Arguments, args=arguments, prog="python examples/lazy_savings.py")


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except (ValueError, FileNotFoundError, SaveError, VideoError, DeviceError) as error:
        sys.exit(f"error: {error}")
