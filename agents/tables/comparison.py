"""Tables of a comparison, from the records alone, with published figures below: Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from ..learning.config import format_settings
from ..learning.models import ModelName, is_own
from ..playing.evaluation import MEASURES, Evaluation
from .intervals import Interval, mean_interval
from .layout import Table, cells_of, comma_separated, format_gain, format_interval, notes_on
from .records import COLUMNS, Record, Row, find_row, rows_of

SHOWN = tuple(name for name in MEASURES if name not in ("plain_mean_average_precision", "log_score"))
FEW_SEEDS = 3
OF_EVENTS = ("mean_average_precision", "detection_map", "events_found")  # columns of a short table of untrimmed clips


@dataclass(frozen=True)
class Reported:
    """A published figure."""

    model: str
    measure: str
    value: float
    source: str


def read_reported(path: Path) -> list[Reported]:
    """Read published figures.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a measure is unknown or a value is no number.
    """
    if not path.exists():
        raise FileNotFoundError(f"no published figures at {path}: it must be a CSV of model, measure, value and source")
    figures = []
    with path.open(newline="") as file:
        for number, line in enumerate(csv.DictReader(file), 2):
            try:
                figure = Reported(line["model"], line["measure"], float(line["value"]), line["source"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: needs model, measure, value and source ({error})") from error
            if figure.measure not in SHOWN:
                raise ValueError(
                    f"{path}, line {number}: measure must be one of {', '.join(SHOWN)}, got {figure.measure!r}"
                )
            figures.append(figure)
    return figures


@dataclass(frozen=True)
class Differences:
    """Differences of a row's accuracy to two reference models at the same number of glimpses."""

    minus_random: Interval | None
    reinforce_minus_it: Interval | None
    reference_glimpses: int | None
    """Glimpses of the REINFORCE row."""

    @classmethod
    def of(cls, row: Row, rows: Sequence[Row]) -> Differences:
        """Compare a row; one without a number of glimpses is compared with REINFORCE at its smallest number."""
        random = find_row(rows, "random", row.glimpses) if row.glimpses is not None else None
        reinforce = find_row(rows, "reinforce", row.glimpses)
        return cls(
            row.accuracy_gain(random),
            reinforce.accuracy_gain(row) if reinforce and row.model.name != "reinforce" else None,
            None if reinforce is None else reinforce.glimpses,
        )


def comparison_table(rows: Sequence[Row], reported: Sequence[Reported] = (), *, all_columns: bool = False) -> Table:
    """Return one line for each row, then the published figures: all columns, or a few.

    The few are five, those of OF_EVENTS for untrimmed clips, and the number of observed frames with jumps.
    """
    published = {figure.measure for figure in reported}
    others = [name for name in SHOWN if name in published or any(row.values(name) for row in rows)]
    is_untrimmed = any(row.values("detection_map") for row in rows)
    short = (*(OF_EVENTS if is_untrimmed else ()), "frames_observed")
    others = [name for name in others if name != "accuracy" and (all_columns or name in short)]
    header = ["model", "glimpses", "accuracy", "minus random", "clips"]
    header += ["seeds", "REINFORCE minus it"] * all_columns + [MEASURES[name] for name in others]
    lines, gains = [], []
    for row in rows:
        found = Differences.of(row, rows)
        cells = [row.title, "-" if row.glimpses is None else str(row.glimpses)]
        cells += [format_interval(row.mean("accuracy")), format_gain(found.minus_random), str(len(row.films))]
        gains.append(found.minus_random)
        if all_columns:
            at = f" (m = {found.reference_glimpses})" * (found.reinforce_minus_it is not None and row.glimpses is None)
            cells += [str(len(row.seeds)), format_gain(found.reinforce_minus_it) + at]
            gains.append(found.reinforce_minus_it)
        lines.append(cells + [format_interval(row.mean(name)) for name in others])
    for model, source in dict.fromkeys((figure.model, figure.source) for figure in reported):
        known = {f.measure: f"{f.value:g}" for f in reported if (f.model, f.source) == (model, source)}
        cells = [
            f"{model} (reported by {source})",
            "-",
            known.get("accuracy", "-"),
            "-",
            "-",
            *["-", "-"] * all_columns,
        ]
        lines.append(cells + [known.get(name, "-") for name in others])
    return Table(header, lines, notes_on([gain for gain in gains if gain is not None]))


def summary(rows: Sequence[Row], reported: Sequence[Reported] = ()) -> str:
    """Return the numbers as CSV, one line for each measure of a model at a number of glimpses.

    `interval` is half of the 95 % interval, empty if it is unknown; `m` is that of REINFORCE for differences to it;
    `reported_by` names the source of a published figure.
    """
    lines: list[list[object]] = []
    for row in rows:
        differences = Differences.of(row, rows)
        measured = [(row.glimpses, name, row.mean(name)) for name in MEASURES]
        measured.append((row.glimpses, "accuracy_minus_random", differences.minus_random))
        measured.append((differences.reference_glimpses, "reinforce_minus_it", differences.reinforce_minus_it))
        for glimpses, name, value in measured:
            if value is not None:
                lines.append([row.model.name, glimpses, len(row.seeds), name, *cells_of(value), value.note, None])
    for figure in reported:
        lines.append([figure.model, None, None, figure.measure, figure.value, None, None, figure.source])
    return comma_separated(["model", "m", "seeds", "measure", "mean", "interval", "note", "reported_by"], lines)


def runs_table(records: Sequence[Record]) -> tuple[list[str], list[list[object]]]:
    """Return the header and one line for each run."""
    lines: list[list[object]] = [
        [one.model.name, one.glimpses, one.seed, one.fold, *map(one.number, COLUMNS), one.result.trained_by]
        for one in records
    ]
    return ["model", "m", "seed", "fold", *COLUMNS, "trained_by"], lines


def verdict(rows: Sequence[Row]) -> str:
    """Return two sentences: the most accurate model with its lead, and chance level with the gain over random cells.

    Models that know where the actor is do not compete.
    """
    ranked = sorted((row for row in rows if not row.model.needs_actor), key=lambda row: -row.correct().mean())
    if not ranked:
        return ""
    best, second = ranked[0], ranked[1] if len(ranked) > 1 else None
    won = f"The most accurate of {len(ranked)} models is {best.name}" if second else f"The model is {best.name}"
    won += f": accuracy {format_interval(best.mean('accuracy'))} on {len(best.films)} test clips"
    if second is not None and (lead := best.accuracy_gain(second)) is not None:
        won += f", {_compared(lead, second.name)}"
    level = f"Chance is {1 / len(best.records[0].record.source.class_names):.3f}"
    pairs = [
        (row, random)
        for row in ranked
        if row.model.name == "reinforce" and (random := find_row(rows, "random", row.glimpses)) is not None
    ]
    ours, random = pairs[0] if pairs else (best, None)
    said = {best.name, second.name} if second is not None else set()
    if random is not None and {ours.name, random.name} != said and (gain := ours.accuracy_gain(random)):
        level += f"; {ours.name} is {_compared(gain, random.name)}"
    return f"{won}. {level}."


def _compared(gain: Interval, other: str) -> str:
    certainty = "more than chance explains" if gain.excludes_zero else "chance may explain it"
    size = replace(gain, mean=abs(gain.mean)).text()
    if round(gain.mean, 3) == 0:
        return f"as accurate as {other} ({certainty})"
    return f"{size} {'below' if gain.mean < 0 else 'above'} {other} ({certainty})"


def results_table(measured: Sequence[tuple[ModelName, Evaluation]], chance: float) -> str:
    """Return the test results of models as lines of text.

    The 95 % interval of the accuracy covers the films of the test videos, not the seeds of training.
    """
    shown = {"vote_accuracy": "vote", "focus": "focus", "focus_per_look": "per look"}
    shown |= {
        name: MEASURES[name]
        for names, shows in ((OF_EVENTS, "detection_map"), (("frames_observed",), "frames_observed"))
        for name in names
        if any(getattr(one, shows) is not None for _, one in measured)
    }
    widths = {name: max(8, len(title) + 2) for name, title in shown.items()}
    header = "".join(f"{title:>{widths[name]}}" for name, title in shown.items())
    lines = [f"{'':12}{'accuracy':>9}{'95 % interval':>17}{header}"]
    accuracies = [mean_interval(result.correct, result.films) for _, result in measured]
    for (model, result), accuracy in zip(measured, accuracies, strict=True):
        low, high = max(accuracy.mean - accuracy.half, 0), min(accuracy.mean + accuracy.half, 1)
        interval = f"{low:.3f} to {high:.3f}" if isfinite(accuracy.half) else "-"
        values = {name: getattr(result, name) for name in shown}
        cells = "".join(f"{'-' if one is None else f'{one:.3f}':>{widths[name]}}" for name, one in values.items())
        lines.append(f"{model:12}{accuracy.mean:9.3f}{interval:>17}{cells}")
    videos, films = len(measured[0][1].correct), len(set(measured[0][1].films))
    covers = "; the interval covers films, not seeds" * any(isfinite(accuracy.half) for accuracy in accuracies)
    lines.append(f"chance {chance:.3f}; {videos} test videos of {films} films{covers}")
    notes = sorted({accuracy.note for accuracy in accuracies if accuracy.note})
    return "\n".join([*lines, *(f"note on some intervals: {note}" for note in notes)])


def warnings_on(records: Sequence[Record], rows: Sequence[Row]) -> list[str]:
    """Return the reasons to be careful with the numbers of some rows."""
    few, folds = [row.name for row in rows if len(row.seeds) < FEW_SEEDS], sorted({one.fold for one in records})
    warnings = []
    if few:
        models = "all models" if len(few) == len(rows) else "; ".join(few)
        warnings.append(f"Fewer than {FEW_SEEDS} seeds: {models}. Train more seeds before you draw conclusions.")
    kept = {id(record) for row in rows for record in row.records}
    lacking = [one for one in records if id(one) not in kept and len(folds) > 1]
    if left_out := sorted({f"{one.model.name} (seed {one.seed})" for one in lacking}):
        warnings.append(f"Left out, because not all of the folds {_listed(folds)} are finished: {', '.join(left_out)}.")
    if notes := sorted({note for row in rows if (mean := row.mean("accuracy")) for note in [mean.note] if note}):
        warnings.append(f"Note on some accuracies: {'; '.join(notes)}.")
    if rows and all(len(set(one.test.films)) == len(one.test.films) for one in rows[0].records):
        warnings.append("The names of the videos contain no film: if videos share footage, intervals are too narrow.")
    return warnings


def page(records: Sequence[Record], reported: Sequence[Reported] = (), *, all_columns: bool = True) -> str:
    """Return the table as Markdown, and below it the facts needed to read and repeat it.

    Raises:
        ValueError: no seed has all of the folds.
    """
    rows = rows_of(records)
    if not rows:
        folds = _listed(sorted({one.fold for one in records}))
        raise ValueError(f"no seed of any model has all of the folds {folds}: train the missing ones")
    table = comparison_table(rows, reported, all_columns=all_columns)
    notes = [*table.notes, *warnings_on(records, rows)]
    return "\n\n".join([verdict(rows), table.markdown(), *facts(records), *notes]) + "\n"


def facts(records: Sequence[Record]) -> list[str]:
    """Return sentences on the source, the training and the machines of some runs."""
    first, of_fold = records[0].record, {one.fold: one for one in records}
    config, source, folds = first.config, first.source, sorted(of_fold)
    films = [film for one in of_fold.values() for film in one.test.films]
    tests = "test videos" if len(folds) == 1 else "tests"  # a video may be a test of several folds
    of_folds = f"fold {folds[0]}" if len(folds) == 1 else f"mean over the folds {_listed(folds)}"
    machines = sorted({f"{one.record.machine}, {one.record.threads} threads" for one in records})
    return [
        f"Source `{config.task.source}`, {of_folds}{_training_of(records)}; "
        f"{len(films)} {tests} of {len(set(films))} films; chance {1 / len(source.class_names):.3f}.",
        f"{source.grid_size} x {source.grid_size} cells in each of {source.frames} frames, "
        f"{source.frames_per_second:g} per second"
        + "".join(f"; {name} {value}" for name, value in (source.extraction or {}).items())
        + ".",
        f"Code {', '.join(sorted({str(one.result.trained_by) for one in records}))}; {'; '.join(machines)}; "
        f"{', '.join(f'{name} {version}' for name, version in first.versions.items())}.",
        *costs_of(records),
        *own_settings(records),
        "Means have 95 % intervals over seeds."
        + " Validation chose the checkpoints of our models." * any(not is_own(one.model.name) for one in records)
        + " Soft attention reads every slice in "
        "order to score it, and begins from the mean of all frames, so it has seen the whole clip at frame 1.",
    ]


def _training_of(records: Sequence[Record]) -> str:
    """Return the training of our models as the end of a sentence; settings that differ are joined by "or"."""
    configs = [one.record.config for one in records if not is_own(one.model.name)]
    if not configs:
        return ""
    names = ("preset", "reward", "updates", "clips", "rollouts")
    preset, reward, updates, clips, rollouts = (
        " or ".join(dict.fromkeys(str(config.setting(name)) for config in configs)) for name in names
    )
    return f", preset {preset}, reward {reward}, {updates} updates of {clips} clips x {rollouts} rollouts"


def costs_of(records: Sequence[Record]) -> list[str]:
    """Return sentences on the costs of frames and of looks, if there are any."""
    config, sentences = records[0].record.config, []
    frame_cost, look_cost = config.task.advanced.frame_cost, config.training.advanced.look_cost
    if frame_cost:
        sentences.append(f"Each observed frame after the first takes {frame_cost:g} off the reward.")
    for title in sorted({one.model.title for one in records if one.record.config.pays_for_looks}):
        sentences.append(
            f"{title}: each look takes {look_cost:g} off the reward; looks are free in the first half "
            "of the updates, then trained on eq. 7 minus costs."
        )
    return sentences


def own_settings(records: Sequence[Record]) -> list[str]:
    """Return the settings of each model that differ from those of most models."""
    settings = {record.model.name: record.own_settings() for record in records}
    usual = {name: _most_common([own[name] for own in settings.values()]) for name in next(iter(settings.values()))}
    lines = []
    for record in {record.model.name: record for record in records}.values():
        own = {name: value for name, value in record.own_settings().items() if value != usual[name]}
        if own:
            lines.append(f"Own settings of {record.model.title}: {format_settings(dict(sorted(own.items())))}.")
    return lines


def _most_common(values: Sequence[object]) -> object:
    return max(values, key=values.count)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
