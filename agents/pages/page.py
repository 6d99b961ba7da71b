"""Page of a report: results of all runs, and a section for each experiment."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image

from ..learning.config import PATHS
from ..pictures.strips import png
from ..playing.evaluation import MEASURES
from ..tables.intervals import Interval
from ..tables.layout import format_gain, format_interval, notes_on
from ..tables.records import find_row
from .clips import DrawnClip, describe_rule
from .experiments import Experiment, rows_over_seeds
from .html import Markup, page, picture, table, tag
from .plots import accuracy_over_frames, learning_curves, visit_maps

MEASURES_NOTE = (
    "All measures are of the test split, with the checkpoint that validation chose. Accuracy is top-1 of the mean of "
    "the frames' softmaxes; vote is the share of episodes whose most frequent prediction is right; focus is the share "
    "of frames after the first with a look on the actor; focus per look is the share of looks on the actor; reward is "
    "the mean of eq. 7; N+ and N- are mean counts of true and false predictions; log-score is the mean log of the "
    "score of a video's classes, after scaling scores to sum to 1; attention on the actor is the share of the weights "
    "of eq. 3; entropy is that of the choice of cells, averaged over the frames."
)
STRIPS_NOTE = (
    "Hard glimpses are bright and numbered in the order in which they were chosen; the first frame is seen whole. Soft "
    "attention brightens a frame by its upsampled weights: the picture has its own brightness at the largest weight, "
    "which is printed in the corner (equal weights would be {uniform:.3f}). Above each frame stands the likeliest "
    "class, green if it is true; on the right are the scores of the whole clip. The episodes are those of the test, "
    "played again."
)
WINDOWS_NOTE = (
    "A video is right or wrong by the mean of all of its windows; its middle window is shown, whose own scores may "
    "differ."
)
STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --ground: #ffffff; --faint: #5d5f66; --line: #d5d6da;
  --band: #f3f4f6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6ea; --ground: #17181b; --faint: #a2a4ab; --line: #3b3d43; --band: #212328; }
}
body { margin: 0 auto; max-width: 107rem; padding: 1.5rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p, li, figcaption { max-width: 60rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th[scope=row] { text-align: left; font-weight: 600; }
thead th { background: var(--band); }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
figcaption { color: var(--faint); font-size: 0.9rem; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
code { font-family: ui-monospace, monospace; font-size: 0.9em; }
"""


def whole_page(
    sections: Sequence[Markup], experiments: Sequence[Experiment], made_by: str, comparison: Markup | None = None
) -> str:
    """Return the page: a comparison if there is one, the results of all runs, and the sections of experiments.

    Args:
        sections: of the experiments.
        experiments: all of them.
        made_by: program and version, for the top of the page.
        comparison: section of a comparison.
    """
    title = "VideoGlimpse: " + (experiments[0].name if len(experiments) == 1 else f"{len(experiments)} experiments")
    links = {"#results": "Results"} | {f"#run-{number}": one.name for number, one in enumerate(experiments, 1)}
    if comparison is not None:
        links = {"#comparison": "Comparison"} | links
    contents = [tag("li", tag("a", name, href=target)) for target, name in links.items()]
    return page(
        title,
        STYLE,
        tag("header", tag("h1", title), tag("p", made_by)),
        tag("nav", tag("ul", *contents), aria_label="Contents"),
        tag("main", *([] if comparison is None else [comparison]), _results(experiments), *sections),
    )


def experiment_section(number: int, experiment: Experiment, clips: Sequence[DrawnClip], left_out: str | None) -> Markup:
    """Return the section of one experiment.

    Args:
        number: on the page, from 1.
        experiment: the runs.
        clips: as the models saw them.
        left_out: reason why there are no clips.
    """
    plots = [picture(png(figure), caption) for caption, figure in figures(experiment).values()]
    return tag(
        "section",
        tag("h2", experiment.name),
        tag("p", _task(experiment)),
        _facts(experiment),
        tag("h3", "Learning"),
        *plots,
        tag("h3", "Clips as the models saw them"),
        *_clips(experiment, clips, left_out),
        *_examples(experiment),
        tag("h3", "Configuration"),
        _configuration(experiment),
        id=f"run-{number}",
    )


def _results(experiments: Sequence[Experiment]) -> Markup:
    records = [record for experiment in experiments for record in experiment.records]
    names = [name for name in MEASURES if any(getattr(record.test, name) is not None for record in records)]
    header = ["experiment", "model", *(MEASURES[name] for name in names), "validation", "trained, s"]
    rows = [
        [
            experiment.name,
            record.model.name,
            *(_number(getattr(record.test, name)) for name in names),
            _number(record.result.validation.accuracy),
            _number(record.result.train_seconds, digits=0),
        ]
        for experiment in experiments
        for record in experiment.records
    ]
    titles = {record.model.name: record.model.title for record in records}
    models = "Models: " + "; ".join(f"{name}: {title}" for name, title in titles.items()) + "."
    parts = [tag("h2", "Results"), tag("p", MEASURES_NOTE), tag("p", models), table(header, rows, row_headers=2)]
    for group in rows_over_seeds(records):
        cells, gains = [], list[Interval]()
        for row in group:
            if len(row.records) > 1:
                random = find_row(group, "random", row.glimpses) if row.glimpses is not None else None
                gain = row.accuracy_gain(random)
                gains += [] if gain is None else [gain]
                means = [format_interval(row.mean(name)) for name in ("vote_accuracy", "focus", "focus_per_look")]
                seeds = ", ".join(str(record.seed) for record in row.records)
                cells.append([row.name, seeds, format_interval(row.mean("accuracy")), format_gain(gain), *means])
        if cells:
            header = ["model", "seeds", "accuracy", "minus random", "vote", "focus", "focus per look"]
            parts += [tag("h3", "Means over seeds, with 95 % intervals"), table(header, cells, row_headers=2)]
            parts += [tag("p", note) for note in notes_on(gains)] if gains else []
    return tag("section", *parts, id="results")


def _task(experiment: Experiment) -> str:
    config, videos = experiment.first.record.config, len(experiment.first.test.correct)
    windows = "" if config.task.window_seconds is None else ", each scored by the mean of its windows"
    return (
        f"Tested on the test split of {config.task.source}, fold {config.task.fold}: {videos} videos{windows}. Trained "
        f"to maximise the reward {config.training.reward}."
    )


def _facts(experiment: Experiment) -> Markup:
    record = experiment.first.record
    config, source, size = record.config, record.source, record.source.grid_size
    commits = dict.fromkeys(str(one.result.trained_by) for one in experiment.records)
    facts = {
        "glimpses": f"{config.task.glimpses} of {size} x {size} cells, seed {experiment.first.seed}",
        "clips": f"{source.frames} frames at {source.frames_per_second} per second, {len(source.class_names)} classes",
        "features": "the source's own" if source.extraction is None else json.dumps(source.extraction),
        "preset": f"{config.preset}, {config.training.updates} updates on {config.training.device}",
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "git commit": "; ".join(commits),
        "machine": f"{record.machine}, {record.threads} threads",
    }
    return tag("div", table([], list(facts.items())), class_="facts")


def figures(experiment: Experiment) -> dict[str, tuple[str, Figure]]:
    """Return the plots of an experiment with their captions, by name."""
    drawn: dict[str, tuple[str, Figure]] = {}
    curves = learning_curves({record.model.name: record.run.metrics() for record in experiment.records})
    if curves is not None:
        drawn["learning"] = (
            "Accuracy on the validation split, and focus on the training clips, over the updates",
            curves,
        )
    by_frames = {record.model.name: record.test.accuracy_by_frames for record in experiment.records}
    drawn["frames_seen"] = "Accuracy on the test split against the frames seen", accuracy_over_frames(by_frames)
    if visits := {one.model.name: one.test.visits for one in experiment.records if one.test.visits is not None}:
        drawn["visits"] = "Share of the looks after the first frame on each cell, in the test clips", visit_maps(visits)
    return drawn


def _clips(experiment: Experiment, clips: Sequence[DrawnClip], left_out: str | None) -> list[Markup]:
    parts = [tag("p", f"The rule: {describe_rule(experiment)}")]
    if left_out is not None:
        return [*parts, tag("p", f"The clips are left out: {left_out}")]
    record = experiment.first.record
    parts.append(tag("p", STRIPS_NOTE.format(uniform=1 / record.source.grid_size**2)))
    if record.config.task.window_seconds is not None:
        parts.append(tag("p", WINDOWS_NOTE))
    for clip in clips:
        title = f"{clip.clip_id} (truth: {clip.truth}), seen by {', '.join(clip.models)}"
        parts += [
            tag("h4", f"{clip.choice.group}: {clip.clip_id}"),
            picture(_as_webp(clip.strip), f"Frames of {title}", kind="webp"),
            picture(clip.gif, f"All frames of {title}", kind="gif", alt=f"Movie of {title}"),
        ]
    return parts


def _examples(experiment: Experiment) -> list[Markup]:
    """Return the film strips that training left in the folders of the runs."""
    caption = "glimpses.png of {}: the first two test videos that it gets right, and the first two that it gets wrong"
    paths = {record.model.name: record.run.path / "glimpses.png" for record in experiment.records}
    strips = [
        picture(_as_webp(path.read_bytes()), caption.format(name), kind="webp")
        for name, path in paths.items()
        if path.exists()
    ]
    return [tag("h3", "Film strips of the runs"), *strips] if strips else []


def _as_webp(content: bytes) -> bytes:
    """Return a PNG of photographs as WebP, in a sixth of the bytes."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").save(buffer, "WEBP", quality=85)
    return buffer.getvalue()


def _configuration(experiment: Experiment) -> Markup:
    """Return all settings, a column for each model."""
    configs = [record.record.config for record in experiment.records]
    rows = [[".".join(PATHS[name]), *(json.dumps(one.setting(name)) for one in configs)] for name in PATHS]
    header = ["setting", *(one.model for one in configs)]
    return tag("details", tag("summary", "All settings"), tag("div", table(header, rows), class_="facts"))


def _number(value: float | None, *, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
