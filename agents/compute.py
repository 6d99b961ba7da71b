"""Cost of the models of a folder: MACs per clip by part, latency and memory, and the savings of glimpses.

    python -m agents.compute RUN [--weights FILE]

RUN is a finished run, or a folder of runs, as agents/reinforce.py writes them. MACs of a policy are counted while it
plays test clips (agents/cost/macs.py). Those of the CNN are of the frames, cameras or crops that the policy needs. A
stored cube has already paid for the CNN, and looking at fewer slices cannot take that back.

If windows slide over videos, a clip is a window. Memory is that of a fresh process: weights, clips and intermediate
values. Batches that are larger than the test split are cut to it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import torch
import tyro

from glimpse_env import ClipSource
from glimpse_env.video.backbones import Backbone

from .cost.latency import Latency, in_fresh_process, memory_of_frames, memory_of_playing, time_frames, time_playing
from .cost.macs import Macs, filmed_by, macs_of_policy, macs_per_frame, network_macs
from .learning.config import Config
from .learning.models import MODELS, ModelName
from .playing.envs import SourceRecord, check_device, greedy_play, make_envs, open_splits
from .playing.features import videos_of
from .playing.videos import Extraction
from .runs.command import parse_flags, run_command
from .runs.files import write_json
from .runs.folder import RunFolder, find_runs
from .runs.provenance import provenance
from .tables.layout import Table


@dataclass(frozen=True)
class Arguments:
    """Print the cost of playing finished runs, and the savings of glimpses."""

    run: tyro.conf.Positional[Path]
    """Finished run, or folder of runs that differ in their model; unfinished runs are left out."""
    weights: Path | None = None
    """Weights of the network that extracted the store; without them the CNN is left out."""
    batches: tuple[int, ...] = (1, 64)
    """Numbers of clips that are played at once, at most those of the test split."""
    repetitions: int = 5
    """Repetitions of each measured time; the median is reported."""
    device: str = "cpu"
    """Device of the networks: "cpu", "cuda" or "cuda:1"."""
    json: Path | None = None
    """File for the numbers, as JSON."""

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise ValueError(f"--batches must be numbers of at least 1 clip, got {self.batches}")
        if self.repetitions < 1:
            raise ValueError(f"--repetitions must be at least 1, got {self.repetitions}")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Cost of playing some clips at once; `memory_bytes` is None if the system does not report it."""

    clips: int
    latency: Latency
    memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """Cost of one model."""

    macs: Macs
    batches: tuple[Batch, ...]
    cnn_macs: float | None = None
    """MACs of the CNN for one clip; None if it was not measured."""

    @property
    def all_macs(self) -> float:
        """MACs of the policy and the CNN for one clip."""
        return self.macs.policy + (self.cnn_macs or 0.0)


@dataclass(frozen=True, kw_only=True)
class CnnCost:
    """Cost of the network that makes the features, on whole frames and without decoding."""

    name: str
    batch_size: int
    macs_per_frame: float
    seconds_per_frame: float
    memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Costs of some models; `cnn` is None if it was not measured."""

    frames: int
    models: dict[ModelName, ModelCost]
    cnn: CnnCost | None


def finished_runs(path: Path) -> list[RunFolder]:
    """Return the finished runs at a path.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they differ in more than their model.
    """
    runs = [run for run in find_runs(path) if run.result() is not None]
    if not runs:
        raise FileNotFoundError(
            f"no run in {path} is finished: finish one with videoglimpse train --resume {quote(str(path))}"
        )
    records = [run.record() for run in runs]
    first, models = records[0], [record.config.model for record in records]
    if len(set(models)) < len(models) or any(
        (record.source, record.config.task) != (first.source, first.config.task) for record in records
    ):
        raise ValueError(f"the runs in {path} must be of different models on the same task: name one run instead")
    return runs


def measure_model(
    config: Config, run: RunFolder, test: ClipSource, batches: Sequence[int], times: int, backbone: Backbone | None
) -> ModelCost:
    """Measure the MACs, times and memory of one model, with the MACs of the CNN `backbone` for it."""
    policy, settings = run.best_policy(config, test), greedy_play(config)
    measured = []
    for clips in batches:
        envs = make_envs(config, test, clips, train=False)
        latency = time_playing(envs, policy, settings, repetitions=times)
        memory = in_fresh_process(memory_of_playing, config, run.path, clips)
        measured.append(Batch(clips=clips, latency=latency, memory_bytes=memory))
    macs = macs_of_policy(config, test, policy, clips=max(batches), seed=config.training.seed)
    result = run.result()
    observed = result.test.frames_observed if result is not None and result.test is not None else None
    frames = observed or policy.shape.frames
    cnn_macs = None if backbone is None else network_macs(macs, test, backbone, frames=frames)
    return ModelCost(macs=macs, batches=tuple(measured), cnn_macs=cnn_macs)


def extraction_of(config: Config, run: RunFolder, test: ClipSource) -> Extraction:
    """Return the settings that made a run's features, on a wall those of its cameras."""
    is_wall = (shown := filmed_by(test)) is not videos_of(test)
    return Extraction.of_run(config, SourceRecord.of(config, shown) if is_wall else run.record().source)


def measure_cnn(extraction: Extraction, backbone: Backbone, arguments: Arguments) -> CnnCost:
    """Measure the MACs, times and memory of the network that made the features, on whole frames."""
    weights, device, frames = arguments.weights, arguments.device, extraction.frames_at_once
    return CnnCost(
        name=backbone.name,
        batch_size=frames,
        macs_per_frame=macs_per_frame(backbone),
        seconds_per_frame=time_frames(backbone, frames=frames, repetitions=arguments.repetitions),
        memory_bytes=in_fresh_process(memory_of_frames, extraction, weights, device),
    )


def measure(arguments: Arguments) -> Compute:
    """Measure the runs and, if its weights are given, the CNN.

    Raises:
        FileNotFoundError: there is no finished run.
        ValueError: the device does not exist, or the weights did not make the run's features.
    """
    check_device(arguments.device)
    runs = finished_runs(arguments.run)
    configs = [run.record().config.with_settings({"device": arguments.device}) for run in runs]
    test = open_splits(configs[0])["test"]
    batches = list(dict.fromkeys(min(clips, test.num_clips) for clips in arguments.batches))
    if max(arguments.batches) > test.num_clips:
        print(f"the test split has {test.num_clips} clips: larger batches are cut to it", file=sys.stderr, flush=True)
    cnn = backbone = None
    if arguments.weights is not None:  # first, since it refuses weights that do not fit
        extraction = extraction_of(configs[0], runs[0], test)
        backbone = extraction.load_backbone(arguments.weights, arguments.device)
        cnn = measure_cnn(extraction, backbone, arguments)
    costs = {
        config.model: measure_model(config, run, test, batches, arguments.repetitions, backbone)
        for config, run in zip(configs, runs, strict=True)
    }
    return Compute(frames=configs[0].task.frames or test.num_frames, models=costs, cnn=cnn)


def table(compute: Compute) -> str:
    """Return a Markdown table with a model in each row: millions of MACs and ms of a clip, MB of a batch."""
    header = ["model", "slices attended", "read", "CNN", "choosing", "attending", "recurrent", "head", "policy"]
    header += ["its share"]
    for batch in next(iter(compute.models.values())).batches:
        header += [f"ms at {batch.clips}", "network", "MB"]
    lines = []
    for name, cost in compute.models.items():
        macs, cnn = cost.macs, cost.cnn_macs
        parts = (cnn, macs.choosing, macs.attending, macs.recurrent, macs.head, macs.policy)
        cells = [name, f"{macs.slices_attended:.0f}", f"{macs.slices_read:.0f}", *map(_millions, parts)]
        cells.append("-" if cnn is None else f"{macs.policy / cost.all_macs:.2%}")
        for batch in cost.batches:
            cells += [f"{1e3 * batch.latency.seconds:.2f}", f"{1e3 * batch.latency.network_seconds:.2f}"]
            cells.append("-" if batch.memory_bytes is None else f"{batch.memory_bytes / 1e6:.0f}")
        lines.append(cells)
    return Table(header, lines).markdown()


def answer(compute: Compute) -> str:
    """Return the savings of glimpses over models that read all slices, on stored cubes and with the CNN."""
    if "reinforce" not in compute.models:
        return "There is no finished run of the model reinforce to compare the others with."
    glimpsing = compute.models["reinforce"]
    ours = glimpsing.macs
    reading_all = {name: cost for name, cost in compute.models.items() if MODELS[name].reads_all}
    reads_more = ours.slices_read > ours.slices_attended
    lines = [
        f"On stored cubes, reinforce needs {_millions(ours.policy)} million MACs per clip, "
        f"{ours.choosing / ours.policy:.1%} of them to choose cells; it attends to {ours.slices_attended:.0f} slices "
        + (f"but reads {ours.slices_read:.0f} to score them." if reads_more else "and reads no others.")
    ]
    lines += [
        f"Compared with {name}, which reads {cost.macs.slices_read:.0f}: {_change(ours.policy, cost.macs.policy)}; "
        f"attention alone needs {_millions(ours.attention)} million, not {_millions(cost.macs.attention)} million."
        for name, cost in reading_all.items()
    ]
    if compute.cnn is None or glimpsing.cnn_macs is None:
        return "\n".join([*lines, "The CNN was not measured: if one made the features, pass its --weights."])
    changes = [f"; {_change(glimpsing.all_macs, cost.all_macs)} than {name}" for name, cost in reading_all.items()]
    last = (
        f"With the CNN {compute.cnn.name}, reinforce needs {_millions(glimpsing.all_macs)} million MACs per clip, "
        f"{glimpsing.cnn_macs / glimpsing.all_macs:.2%} of them in the CNN{''.join(changes)}."
    )
    return "\n".join([*lines, last])


def _change(value: float, base: float) -> str:
    return f"{100 * abs(value / base - 1):.3g}% {'more' if value > base else 'fewer'} MACs"


def _millions(macs: float | None) -> str:
    return "-" if macs is None else f"{macs / 1e6:,.2f}"


def main(arguments: Arguments) -> None:
    """Print the table and the savings, and write the numbers to --json."""
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise FileNotFoundError(f"--json {arguments.json}: there is no folder {arguments.json.parent}; make it")
    compute = measure(arguments)
    print(f"{arguments.device}, {torch.get_num_threads()} threads; millions of MACs and ms per clip, MB per batch")
    print(f"\n{table(compute)}")
    if compute.cnn is not None:
        memory = "" if compute.cnn.memory_bytes is None else f", {compute.cnn.memory_bytes / 1e6:.0f} MB"
        print(
            f"{compute.cnn.name}: {_millions(compute.cnn.macs_per_frame)} million MACs and "
            f"{1e3 * compute.cnn.seconds_per_frame:.1f} ms per frame, in batches of {compute.cnn.batch_size}{memory}\n"
        )
    print(answer(compute))
    if arguments.json is not None:
        write_json(arguments.json, {"provenance": provenance(), **dataclasses.asdict(compute)})


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line."""
    return parse_flags(Arguments, arguments, program="videoglimpse compute")


if __name__ == "__main__":
    run_command(lambda: main(parse_arguments()))
