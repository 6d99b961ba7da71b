"""Build one self-contained HTML page from finished runs.

    python -m agents.report RUN [RUN ...] --out report.html
    python -m agents.report OUT                            # all runs of a comparison (agents.compare)
    python -m agents.report RUN --videos a.mp4 b.mp4       # watch the models look at your own videos

The page says who won, and shows clips as the models saw them, frame by frame; results, learning curves and settings
unfold. The clips need the source of the features; without it they are left out, and the page says why.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm.auto import tqdm

from glimpse_env.terminal import shows_bars

from .cost.macs import ClipMacs, read_costs
from .pages.clips import Clip, split_clips, video_clips
from .pages.experiments import Experiment, experiments_of, read_finished
from .pages.page import experiment_section, figures, whole_page
from .pictures.movies import animation, encode_gif, encode_mp4, has_mp4
from .pictures.strips import comparison_strip
from .pictures.timelines import timeline
from .playing.envs import check_device
from .runs.command import parse_flags, run_command
from .runs.files import write_file
from .runs.provenance import provenance
from .tables.comparison import read_reported
from .tables.plots import png

BUDGET = 6e6  # bytes of the clips on a page, which leaves 2 MB below 8 MB for plots


@dataclass(frozen=True)
class Arguments:
    """Build one HTML page from finished runs: watch the models look at clips, and compare their results."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Finished runs, or folders of runs, such as that of a comparison."""
    out: Path = Path("report.html")
    """File of the page; it contains all pictures, and opens from disk."""
    videos: tuple[Path, ...] = ()
    """Video files to watch instead of test clips; the runs must be on a feature store or a lazy source."""
    weights: Path | None = None
    """With --videos: weights of the network that extracted the store."""
    reported: Path | None = None
    """CSV of published figures: model, measure, value, source."""
    figures: Path | None = None
    """Folder for copies of the pictures, as PNG, GIF and, if PyAV is installed, MP4."""
    source: str | None = None
    """Feature store of the runs, if it has moved."""
    device: str = "cpu"
    """Device that plays the clips: "cpu", "cuda" or "cuda:1"."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("no run was named: name at least one run, or a folder of runs")
        if self.out.is_dir():
            raise ValueError(f"--out {self.out} is a folder: name the file to write")
        if self.out.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--out must end in .html, got {self.out.name!r}")


def clips_of(experiment: Experiment, arguments: Arguments) -> tuple[list[Clip], str | None]:
    """Return the clips to show, or the reason why there are none."""
    watched, device = experiment.watched, arguments.device
    if arguments.videos:
        return list(video_clips(watched, arguments.videos, weights=arguments.weights, device=device)), None
    try:
        return list(split_clips(watched, device=device, source=arguments.source)), None
    except (OSError, ValueError, RuntimeError) as error:
        return [], f"{error}."


def write_figures(folder: Path, experiment: Experiment, clips: Sequence[Clip], macs: dict[str, ClipMacs]) -> None:
    """Write the pictures of an experiment as files."""
    for name, (_, figure) in figures(experiment, macs).items():
        write_file(folder / f"{name}.png", png(figure))
    for number, clip in enumerate(clips, 1):
        pictures = animation(clip.models, 0)
        write_file(folder / f"clip-{number}.png", png(comparison_strip(clip.models, 0)))
        if not clip.models[0].source.trimmed:
            write_file(folder / f"events-{number}.png", png(timeline(clip.models, 0)))
        write_file(folder / f"clip-{number}.gif", encode_gif(pictures, clip.frames_per_second))
        if has_mp4():
            write_file(folder / f"clip-{number}.mp4", encode_mp4(pictures, clip.frames_per_second))


def costs_of(experiment: Experiment, paths: Sequence[Path]) -> dict[str, ClipMacs]:
    """Return the MACs of an experiment's rows, by name, from the comparisons at some paths that hold its runs."""
    macs: dict[str, ClipMacs] = {}
    folders = {folder for record in experiment.records for folder in record.run.path.resolve().parents}
    for path in paths:
        if path.resolve() in folders:
            macs |= read_costs(path / "costs.json")
    return macs


def main(arguments: Arguments) -> None:
    """Write the page, and the pictures if --figures asks for them."""
    check_device(arguments.device)
    reported = [] if arguments.reported is None else read_reported(arguments.reported)
    experiments = experiments_of(read_finished(arguments.runs))
    sections = []
    for number, experiment in enumerate(tqdm(experiments, desc="experiments", disable=not shows_bars()), 1):
        clips, left_out = clips_of(experiment, arguments)
        if left_out is not None:
            print(f"{experiment.name}: the clips are left out: {left_out}", file=sys.stderr)
        budget, macs = BUDGET / len(experiments), costs_of(experiment, arguments.runs)
        sections.append(
            experiment_section(
                number,
                experiment,
                clips,
                left_out,
                reported=reported,
                macs=macs,
                budget=budget,
                named=len(experiments) > 1,
            )
        )
        if arguments.figures is not None:
            write_figures(arguments.figures / f"{number}-{experiment.name}", experiment, clips, macs)
    made = provenance()
    made_by = f"Made by videoglimpse {made['versions']['videoglimpse']}, git commit {made['git_commit']}"
    content = whole_page(sections, experiments, made_by).encode("utf-8", "backslashreplace")
    write_file(arguments.out, content)
    print(f"wrote {arguments.out} ({len(content) / 1e6:.1f} MB)")


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line."""
    return parse_flags(Arguments, arguments, program="videoglimpse report")


if __name__ == "__main__":
    run_command(lambda: main(parse_arguments()))
