"""The page of a report: what it says of each run, and how it looks."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from ..pictures.strips import arm_name, png
from ..playing.evaluation import MEASURES
from ..runs.finished import FinishedRun
from ..tables import statistics as seeds
from .clips import DrawnClip, rule
from .html import Markup, page, picture, table, tag
from .plots import accuracy_over_frames, learning_curves, visit_maps

EXPLAINED = (
    "Everything is measured on the test split with the checkpoint that validation chose. Accuracy is top-1 of the mean "
    "of the frames' softmaxes, vote the share of episodes whose most frequent prediction is right, focus the share of "
    "frames after the first with a look on the actor, focus per look the share of looks on it, reward the mean of "
    "eq. 7, N+ and N- the mean counts of true and false predictions, log-score the mean log of the score of a video's "
    "classes (scores scaled to sum to 1), attention on the actor the share of the weights of what is seen, entropy "
    "that of the choice of what is seen, a mean over frames."
)
READ_STRIPS = (
    "Hard glimpses are bright and numbered in the order in which they were chosen; the first frame is seen whole. Soft "
    "attention brightens a frame by its weights, upsampled: where it is strongest the picture is as it is, and the "
    "number in the corner is the largest weight (all cells alike: {uniform:.3f}). Above each frame stands the "
    "likeliest class, green where it is true, and on the right the scores of the whole clip. The "
    "episodes are those of the test, played once more."
)
MIDDLE_WINDOWS = (
    "A video is right or wrong by all of its windows together; shown is its middle one, "
    "which alone may say something else."
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
    sections: Sequence[Markup],
    runs: Sequence[tuple[str, FinishedRun]],
    made_by: str,
    comparison: Markup | None = None,
) -> str:
    """Put the sections of runs below the results of all, and these below a comparison; `made_by` says with what."""
    title = "VideoGlimpse: " + (runs[0][0] if len(runs) == 1 else f"{len(runs)} runs")
    contents = [tag("li", tag("a", name, href=f"#run-{number}")) for number, (name, _) in enumerate(runs, 1)]
    compared = [] if comparison is None else [tag("li", tag("a", "Comparison", href="#comparison"))]
    return page(
        title,
        STYLE,
        tag("header", tag("h1", title), tag("p", made_by)),
        tag(
            "nav",
            tag("ul", *compared, tag("li", tag("a", "Results", href="#results")), *contents),
            aria_label="Contents",
        ),
        tag("main", *([] if comparison is None else [comparison]), _results(runs), *sections),
    )


def run_section(
    number: int, name: str, run: FinishedRun, clips: Sequence[DrawnClip], left_out: str | None, example: bytes | None
) -> Markup:
    """Lay out one run.

    Args:
        number: of the run on the page, from 1.
        name: of the run.
        run: what its files say.
        clips: as its arms saw them.
        left_out: why there are no clips, where there are none.
        example: the run's own glimpses.png, where it is kept.
    """
    return tag(
        "section",
        tag("h2", name),
        tag("p", _split(run)),
        _facts(run),
        tag("h3", "Learning"),
        *_plots(run),
        tag("h3", "The same clips, arm beside arm"),
        *_clips(run, clips, left_out),
        *_example(example),
        tag("h3", "Configuration"),
        _configuration(run),
        id=f"run-{number}",
    )


def _results(runs: Sequence[tuple[str, FinishedRun]]) -> Markup:
    names = [name for name in MEASURES if any(run.measured(name) for _, run in runs)]
    header = ["run", "glimpses", *(MEASURES[name] for name in names), "validation", "trained, s"]
    rows = [
        [
            title,
            arm_name(arm),
            *(_number(run.tests[arm].get(name)) for name in names),
            _number(evaluation.get("validation_accuracy")),
            _number(evaluation.get("train_seconds"), digits=0),
        ]
        for title, run in runs
        for arm, evaluation in run.evaluations.items()
    ]
    parts = [tag("h2", "Results"), tag("p", EXPLAINED), table(header, rows, row_headers=2)]
    return tag("section", *parts, *_over_seeds(runs), id="results")


def _over_seeds(runs: Sequence[tuple[str, FinishedRun]]) -> list[Markup]:
    """Put runs that differ in their seed alone together."""
    groups: list[list[tuple[str, FinishedRun]]] = []
    for named in runs:
        for group in groups:
            try:
                seeds.read_runs([run.folder for _, run in [*group, named]])
            except ValueError:  # not of this group
                continue
            group.append(named)
            break
        else:
            groups.append([named])
    parts = []
    for group in groups:
        if len(group) > 1:
            together = f"Mean and 95 % interval over the seeds of {', '.join(name for name, _ in group)}"
            rows = seeds.rows([run.result for _, run in group])
            parts.append(tag("h3", together))
            parts.append(table(seeds.HEADER, [[arm_name(arm), *cells] for arm, *cells in rows]))
    return parts


def _split(run: FinishedRun) -> str:
    windows = run.result.get("test_windows")
    told = f", each by the mean of its windows' scores ({windows} windows)" if windows else ""
    return (
        f"Tested on the test split of {run.config['source']}, fold {run.config.get('fold', 1)}: "
        f"{run.result['test_clips']} videos{told}. The reward maximised is {run.result.get('reward_maximised', 'eq7')}."
    )


def _facts(run: FinishedRun) -> Markup:
    """Return what a reader asks first, and what the run was made with."""
    source, config = run.content.get("source", {}), run.config
    versions = ", ".join(f"{name} {version}" for name, version in run.content.get("versions", {}).items())
    extraction = source.get("extraction")
    facts = {
        "glimpses": f"{config['glimpses']} of {_times(source.get('grid_size'))} cells, seed {config['seed']}",
        "clips": f"{source.get('frames')} frames at {source.get('frames_per_second')} a second, "
        f"{len(source.get('class_names', []))} classes",
        "features": "the source's own" if not extraction else json.dumps(extraction),
        "preset": f"{config.get('preset')}, {config.get('updates')} updates on {config.get('device')}",
        "versions": versions,
        "git commit": str(run.content.get("git_commit")),
        "machine": f"{run.content.get('machine')}, {run.content.get('threads')} threads",
    }
    return tag("div", table([], list(facts.items())), class_="facts")


def _plots(run: FinishedRun) -> list[Markup]:
    parts = [picture(png(figure), caption) for caption, figure in figures(run).values()]
    if not any(run.metrics.values()):
        parts.append(tag("p", "The run keeps no metrics.jsonl: there are no learning curves."))
    return parts


def figures(run: FinishedRun) -> dict[str, tuple[str, Figure]]:
    """Return the plots of a run with their captions, by name."""
    drawn: dict[str, tuple[str, Figure]] = {}
    curves = learning_curves(run.metrics)
    if curves is not None:
        caption = "Accuracy on the validation split, and focus on the training clips, over the updates"
        drawn["learning"] = caption, curves
    if accuracies := run.measured("accuracy_by_frames"):
        drawn["frames_seen"] = "Accuracy on the test split against the frames seen", accuracy_over_frames(accuracies)
    if visits := run.measured("visits"):
        caption = "Share of the looks after the first frame that fell on each cell of the test clips"
        drawn["visits"] = caption, visit_maps(visits)
    return drawn


def _clips(run: FinishedRun, clips: Sequence[DrawnClip], left_out: str | None) -> list[Markup]:
    parts = [tag("p", f"The rule: {rule(list(run.evaluations))}")]
    if left_out is not None:
        return [*parts, tag("p", f"The strips are left out: {left_out}")]
    size = run.content["source"]["grid_size"]
    parts.append(tag("p", READ_STRIPS.format(uniform=1 / size**2)))
    if run.config.get("window_seconds") is not None:
        parts.append(tag("p", MIDDLE_WINDOWS))
    for clip in clips:
        of_clip = f"{clip.clip_id} (truth: {clip.truth}), seen by {', '.join(clip.arms)}"
        parts += [
            tag("h4", f"{clip.choice.group}: {clip.clip_id}"),
            picture(_smaller(clip.strip), f"Frames of {of_clip}", kind="webp"),
            picture(clip.gif, f"All frames of {of_clip}", kind="gif", alt=f"Moving picture of {of_clip}"),
        ]
    return parts


def _smaller(content: bytes) -> bytes:
    """Return a PNG of photographs as WebP, in a sixth of the bytes."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").save(buffer, "WEBP", quality=85)
    return buffer.getvalue()


def _example(example: bytes | None) -> list[Markup]:
    if example is None:
        return []
    caption = "glimpses.png of the run: the first two videos that REINFORCE gets right, and the first two it gets wrong"
    return [tag("h3", "The run's own film strip"), picture(_smaller(example), caption, kind="webp")]


def _configuration(run: FinishedRun) -> Markup:
    rows = [[name, json.dumps(value)] for name, value in _flat(run.config)]
    return tag("details", tag("summary", "All of it"), tag("div", table(["field", "value"], rows), class_="facts"))


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    fields: list[tuple[str, Any]] = []
    for name, value in config.items():
        fields += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return fields


def _times(size: int | None) -> str:
    return "?" if size is None else f"{size} x {size}"


def _number(value: float | None, *, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
