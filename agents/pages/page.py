"""Page of a report: for each experiment who won, the clips as the models saw them, figures and settings."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from ..cost.macs import ClipMacs
from ..learning.config import PATHS
from ..pictures.movies import animation, encode_mp4, has_mp4
from ..pictures.strips import comparison_strip
from ..pictures.timelines import timeline
from ..tables.comparison import Reported, comparison_table, facts, runs_table, verdict, warnings_on
from ..tables.plots import comparison_figures, learning_figure, png, visits_figure
from .clips import YOURS, Clip, describe_rule
from .experiments import Experiment
from .html import Markup, data_uri, embedded, page, picture, plot, table, tag, unfolding

MEASURES_NOTE = (
    "All measures are of the test split, with the checkpoint that validation chose. Accuracy is top-1 of the mean of "
    "the frames' softmaxes; vote is the share of episodes whose most frequent prediction is right; focus is the share "
    "of frames after the first with a look on the actor; focus per look is the share of looks on the actor; reward is "
    "the mean of eq. 7 minus the costs of looks and frames; N+ and N- are mean counts of true and false predictions; "
    "attention on the actor is the share of the weights of eq. 3; entropy is that of the choice of cells, averaged "
    "over the frames; events found is the share of true events that were looked at while they lasted, after the first "
    "frame, and frames until found is the median from their start to the first look."
)
READING = (
    "Numbered boxes are the cells that the model looked at, in the order of choice; {first_glance} of the first frame. "
    "Soft attention is a heat map, scaled to its own maximum, which stands in the corner (equal weights would be "
    "{uniform:.3f}, or less on untrimmed clips). Below each frame: the likeliest class, ✓ if it is true and ✗ if not, "
    "and the scores of the classes over time."
)
FIRST = {"whole": "it sees all", "none": "it sees nothing"}
WINDOWS_NOTE = (
    "A video is right or wrong by the mean of all of its windows; its middle window is shown, whose own scores may "
    "differ."
)


def whole_page(sections: Sequence[Markup], experiments: Sequence[Experiment], made_by: str) -> str:
    """Return the page: one section for each experiment, and the program that made it."""
    title = "VideoGlimpse: " + (experiments[0].name if len(experiments) == 1 else f"{len(experiments)} experiments")
    links = [tag("li", tag("a", one.name, href=f"#run-{number}")) for number, one in enumerate(experiments, 1)]
    nav = [tag("nav", tag("ul", *links), aria_label="Contents")] if len(links) > 1 else []
    return page(title, tag("header", tag("h1", title)), *nav, tag("main", *sections), tag("footer", tag("p", made_by)))


def experiment_section(
    number: int,
    experiment: Experiment,
    clips: Sequence[Clip],
    left_out: str | None,
    *,
    reported: Sequence[Reported] = (),
    macs: Mapping[str, ClipMacs] | None = None,
    budget: float = float("inf"),
    named: bool = True,
) -> Markup:
    """Return the section of one experiment, which has a title if it is `named`.

    `left_out` is the reason why there are no clips. The last clips that do not fit the `budget` of bytes are left out,
    but the first stays. `macs` are by the name of a row.
    """
    rows = experiment.rows
    short = comparison_table(rows, reported)
    every = comparison_table(rows, reported, all_columns=True)
    header, runs = runs_table(experiment.records)
    lines = [[str(one.run.path), *map(_cell, cells)] for one, cells in zip(experiment.records, runs, strict=True)]
    plots = [plot(figure, caption) for caption, figure in figures(experiment, macs or {}).values()]
    return tag(
        "section",
        *([tag("h2", experiment.name)] if named else []),
        tag("p", verdict(rows), class_="verdict"),
        table(short.header, short.lines),
        *(tag("p", warning, class_="note") for warning in warnings_on(experiment.records, rows)),
        unfolding("All measures", table(every.header, every.lines), *(tag("p", one) for one in every.notes),
                  tag("p", MEASURES_NOTE)),
        unfolding("Every run", table(["run", *header], lines)),
        tag("h3", "Watch it look"),
        *_clips(experiment, clips, left_out, budget),
        tag("h3", "Figures"),
        tag("div", *plots, class_="plots"),
        unfolding("Settings", *(tag("p", fact) for fact in facts(experiment.records)), _configuration(experiment)),
        id=f"run-{number}",
    )  # fmt: skip


def figures(experiment: Experiment, macs: Mapping[str, ClipMacs]) -> dict[str, tuple[str, Figure]]:
    """Return the plots of an experiment with their captions, by name."""
    drawn = comparison_figures(experiment.rows, macs) if experiment.rows else {}
    learning, visits = learning_figure(experiment.watched), visits_figure(experiment.watched)
    if learning is not None:
        drawn["learning"] = "Accuracy on validation, and focus on the training clips, over the updates", learning
    if visits is not None:
        drawn["visits"] = "Share of the looks after the first frame on each cell, in the test clips", visits
    return drawn


def _configuration(experiment: Experiment) -> Markup:
    """Return all settings, a column for each model that is watched."""
    configs = [record.record.config for record in experiment.watched]
    rows = [[".".join(PATHS[name]), *(json.dumps(one.setting(name)) for one in configs)] for name in PATHS]
    return tag("div", table(["setting", *(one.model for one in configs)], rows), class_="facts")


def _clips(experiment: Experiment, clips: Sequence[Clip], left_out: str | None, budget: float) -> list[Markup]:
    """Return the viewer of the clips, and their film strips and movies below it."""
    strips = _strips_of_runs(experiment)
    if left_out is not None:
        return [tag("p", f"The clips are left out: {left_out}"), *strips]
    data, films, spent = list[dict[str, Any]](), list[Markup](), 0
    for clip in clips:
        one, film = clip.data(), _film(clip)
        spent += len(json.dumps(one)) + len(film)
        if data and spent > budget:
            break
        data.append(one)
        films.append(film)
    shown = f"{len(data)} of {len(clips)} clips are shown, to keep the page small. " if len(data) < len(clips) else ""
    record, given = experiment.first.record, any(clip.group == YOURS for clip in clips)
    notes = [
        tag(
            "p",
            READING.format(
                uniform=1 / record.source.grid_size**2, first_glance=FIRST[record.config.task.advanced.first_glance]
            ),
            class_="note",
        )
    ]
    if record.config.task.window_seconds is not None:
        notes.append(tag("p", WINDOWS_NOTE, class_="note"))
    rule = f"{shown}The rule: " + ("the videos that you named." if given else describe_rule(experiment.watched))
    return [
        tag("div", tag("script", embedded(data), type="application/json"), class_="viewer"),
        tag("noscript", tag("p", "The viewer needs JavaScript; film strips of the same clips stand below.")),
        *notes,
        tag("p", rule, class_="note"),
        unfolding("The same clips as film strips and movies", *films),
        *([unfolding("Film strips of the runs", *strips)] if strips else []),
    ]


def _film(clip: Clip) -> Markup:
    title = f"{clip.name} (truth: {clip.truth}), seen by {', '.join(played.model.name for played in clip.models)}"
    parts = [picture(_as_webp(png(comparison_strip(clip.models, 0), dpi=110)), f"{clip.group}: frames of {title}")]
    if not clip.models[0].source.trimmed:
        parts.append(picture(_as_webp(png(timeline(clip.models, 0), dpi=110)), f"{clip.group}: events of {title}"))
    if has_mp4():
        movie = data_uri(encode_mp4(animation(clip.models, 0), clip.frames_per_second), "video/mp4")
        parts.append(tag("video", src=movie, controls="", preload="metadata", aria_label=f"Movie of {title}"))
    return tag("div", *parts)


def _strips_of_runs(experiment: Experiment) -> list[Markup]:
    """Return the film strips that training left in the folders of the runs."""
    caption = "glimpses.png of {}: the first two test videos that it gets right, and the first two that it gets wrong"
    paths = {record.model.name: record.run.path / "glimpses.png" for record in experiment.watched}
    return [picture(_as_webp(path.read_bytes()), caption.format(name)) for name, path in paths.items() if path.exists()]


def _as_webp(content: bytes) -> bytes:
    """Return a PNG of photographs as WebP, in a sixth of the bytes."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").save(buffer, "WEBP", quality=85)
    return buffer.getvalue()


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
