"""Join the tables, plots, film strips and configuration of finished runs into one page that needs nothing else.

    python -m agents.report RUN [RUN ...] --out report.html
    python -m agents.report OUT/m5/seed1 --comparison OUT      # with the tables and figures of agents.compare

The strips need the source of the run's features (a store keeps pictures): without it they are left out, the page says
why, and the rest is made all the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import tyro
from tqdm import tqdm

from glimpse_env.files import write_atomically

from .learning.config import Config
from .pages.clips import DrawnClip, draw_clips
from .pages.comparison import comparison_section
from .pages.page import figures, run_section, whole_page
from .pictures.movies import encode_mp4
from .pictures.strips import png
from .playing.envs import check_device
from .runs.finished import FinishedRun
from .runs.folder import provenance


@dataclass(frozen=True)
class Arguments:
    """Write one page about finished runs: results, learning curves, film strips and configuration."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the runs."""
    out: Path = Path("report.html")
    """The page; it opens from disk, and holds all that it shows."""
    comparison: Path | None = None
    """Folder of a comparison (agents.compare), whose table and figures come first."""
    figures: Path | None = None
    """Folder to write the pictures into as well, as PNG, GIF and, where PyAV is installed, MP4."""
    source: str | None = None
    """Feature store of the runs, where it is not any more where their configuration says."""
    device: str = "cpu"
    """To play the clips of the strips on: "cpu", "cuda" or "cuda:1"."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("name at least one run's folder")
        if len({run.resolve() for run in self.runs}) < len(self.runs):
            raise ValueError(f"a run is named twice: {', '.join(str(run) for run in self.runs)}")
        if self.out.is_dir():
            raise ValueError(f"--out {self.out} is a folder: name the file to write")


def named(runs: Sequence[FinishedRun]) -> list[tuple[str, FinishedRun]]:
    """Return the runs with their names on the page: the folder's own, or its path where two share that."""
    names = [run.folder.resolve().name for run in runs]
    return [(name if names.count(name) == 1 else str(run.folder), run) for name, run in zip(names, runs, strict=True)]


def clips_of(run: FinishedRun, arguments: Arguments) -> tuple[list[DrawnClip], str | None]:
    """Return the chosen clips of a run as its arms saw them, or why there are none."""
    correct = run.measured("correct")
    if correct.keys() != run.evaluations.keys():
        return [], "the run is of a version that did not keep which videos were right."
    try:
        config = Config.from_json(run.config)
    except TypeError as error:
        return [], f"the configuration is of another version of this code ({error})."
    try:
        clips = draw_clips(config, run.folder, correct, device=arguments.device, source=arguments.source)
        return list(tqdm(clips, desc=f"clips of {run.folder.name}", disable=None, leave=False)), None
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        return [], f"{error}."


def write_figures(folder: Path, run: FinishedRun, clips: Sequence[DrawnClip]) -> None:
    """Write the pictures of a run as files of their own."""
    for name, (_, figure) in figures(run).items():
        write_atomically(folder / f"{name}.png", png(figure))
    for number, clip in enumerate(clips, 1):
        write_atomically(folder / f"clip-{number}.png", clip.strip)
        write_atomically(folder / f"clip-{number}.gif", clip.gif)
        if find_spec("av") is not None:
            write_atomically(folder / f"clip-{number}.mp4", encode_mp4(clip.pictures, clip.frames_per_second))


def main(arguments: Arguments) -> None:
    """Write the page, and the pictures where asked."""
    check_device(arguments.device)
    runs = named([FinishedRun.read(folder) for folder in arguments.runs])
    comparison = None if arguments.comparison is None else comparison_section(arguments.comparison)
    sections = []
    for number, (name, run) in enumerate(tqdm(runs, desc="runs", disable=None), 1):
        clips, left_out = clips_of(run, arguments)
        if left_out is not None:
            print(f"{name}: the strips are left out: {left_out}", file=sys.stderr)
        example = run.folder / "glimpses.png"
        sections.append(
            run_section(number, name, run, clips, left_out, example.read_bytes() if example.exists() else None)
        )
        if arguments.figures is not None:
            write_figures(arguments.figures / f"{number}-{run.folder.resolve().name}", run, clips)
    made = provenance()
    made_by = (
        f"Made by agents.report of videoglimpse {made['versions']['videoglimpse']}, git commit {made['git_commit']}"
    )
    content = whole_page(sections, runs, made_by, comparison).encode()
    write_atomically(arguments.out, content)
    print(f"wrote {arguments.out} ({len(content) / 1e6:.1f} MB)")


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments, prog="python -m agents.report"))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
