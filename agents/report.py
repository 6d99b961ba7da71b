"""Build one self-contained HTML report from finished runs.

    python -m agents.report RUN [RUN ...] --out report.html
    python -m agents.report OUT/m5/seed1 --comparison OUT      # with the table and figures of agents.compare

The page shows results, learning curves, clips and configurations. Runs in one folder that differ in their model share a
section. The clips need the source of the features; without it they are left out, and the page says why.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from .pages.clips import DrawnClip, draw_clips
from .pages.comparison import comparison_section
from .pages.experiments import Experiment, experiments_of, read_finished
from .pages.page import experiment_section, figures, whole_page
from .pictures.movies import encode_mp4, has_mp4
from .pictures.strips import png
from .playing.envs import check_device
from .runs.command import run_command
from .runs.files import write_file
from .runs.folder import find_runs
from .runs.provenance import provenance


@dataclass(frozen=True)
class Arguments:
    """Build one HTML page from finished runs: results, learning curves, clips and configurations."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Finished runs, or folders of runs."""
    out: Path = Path("report.html")
    """File of the page; it contains all pictures, and opens from disk."""
    comparison: Path | None = None
    """Folder of a comparison (agents.compare), whose table and figures are shown first."""
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


def clips_of(experiment: Experiment, arguments: Arguments) -> tuple[list[DrawnClip], str | None]:
    """Return the chosen clips of an experiment, or the reason why there are none."""
    try:
        clips = draw_clips(experiment, device=arguments.device, source=arguments.source)
        return list(tqdm(clips, desc=f"clips of {experiment.name}", disable=None, leave=False)), None
    except (OSError, ValueError, RuntimeError) as error:
        return [], f"{error}."


def write_figures(folder: Path, experiment: Experiment, clips: Sequence[DrawnClip]) -> None:
    """Write the pictures of an experiment as files."""
    for name, (_, figure) in figures(experiment).items():
        write_file(folder / f"{name}.png", png(figure))
    for number, clip in enumerate(clips, 1):
        write_file(folder / f"clip-{number}.png", clip.strip)
        write_file(folder / f"clip-{number}.gif", clip.gif)
        if has_mp4():
            write_file(folder / f"clip-{number}.mp4", encode_mp4(clip.pictures, clip.frames_per_second))


def main(arguments: Arguments) -> None:
    """Write the page, and the pictures if --figures asks for them."""
    check_device(arguments.device)
    experiments = experiments_of(read_finished([run for path in arguments.runs for run in find_runs(path)]))
    comparison = None if arguments.comparison is None else comparison_section(arguments.comparison)
    sections = []
    for number, experiment in enumerate(tqdm(experiments, desc="experiments", disable=None), 1):
        clips, left_out = clips_of(experiment, arguments)
        if left_out is not None:
            print(f"{experiment.name}: the clips are left out: {left_out}", file=sys.stderr)
        sections.append(experiment_section(number, experiment, clips, left_out))
        if arguments.figures is not None:
            write_figures(arguments.figures / f"{number}-{experiment.path.resolve().name}", experiment, clips)
    made = provenance()
    made_by = (
        f"Made by agents.report of videoglimpse {made['versions']['videoglimpse']}, git commit {made['git_commit']}"
    )
    content = whole_page(sections, experiments, made_by, comparison).encode("utf-8", "backslashreplace")
    write_file(arguments.out, content)
    print(f"wrote {arguments.out} ({len(content) / 1e6:.1f} MB)")


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line."""
    return tyro.cli(Arguments, args=arguments, prog="python -m agents.report")


if __name__ == "__main__":
    run_command(lambda: main(parse_arguments()))
