"""Change one setting of a run at a time, over several seeds, and tabulate the results.

    python -m agents.ablate --source STORE --out runs/ablations --seeds 1 2 3
    python -m agents.ablate --source STORE --out runs/ablations --factors credit baseline --updates 500

REINFORCE is trained with the base configuration and with every other value of each factor, into OUT/base/seedS and
OUT/<factor>=<value>/seedS. The same command resumes after an interruption and skips finished runs. Some values need
another setting to be changed with them (COMPANIONS); the table says so, and such a value is never chosen. OUT/table.md
and OUT/table.csv are written after every run. The best value of a factor is chosen on validation, never on the test
split.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from .learning.config import Config, Settings
from .playing.envs import absolute_source, check_playable, open_splits
from .reinforce import train
from .runs.command import CommandLine, parse_command, run_command
from .runs.files import read_json, write_file, write_json
from .runs.folder import RunFolder, RunResult
from .runs.jobs import Job, train_all
from .runs.provenance import provenance
from .tables.intervals import Interval, comparisons_sentence, crossed_interval, mean_interval
from .tables.layout import comma_separated, format_gain, format_interval, markdown

Factor = Literal[
    "credit", "baseline", "encoder", "slice_weights", "penalty", "eta", "class_gradient", "glimpse_order", "reward",
    "rollouts",
]  # fmt: skip

FACTORS: dict[Factor, dict[str, Settings]] = {
    "credit": {name: {"credit": name} for name in ("causal", "terminal")},
    "baseline": {name: {"baseline": name} for name in ("none", "value", "leave_one_out")},
    "encoder": {name: {"encoder": name} for name in ("sum", "what_and_where")},
    "slice_weights": {name: {"slice_weights": name} for name in ("uniform", "softmax")},
    "penalty": {f"{weight:g}": {"penalty": weight} for weight in (0.0, 0.1, 1.0, 10.0)},
    "eta": {f"{eta:g}": {"abstain": True, "eta": eta} for eta in (0.25, 0.5, 0.75)},
    "class_gradient": {name: {"class_gradient": name == "drawn"} for name in ("likeliest", "drawn")},
    "glimpse_order": {name: {"glimpse_order": name} for name in ("joint", "sequential")},
    "reward": {name: {"reward": name} for name in ("eq7", "frame_log_score", "clip_log_score")},
    # A single rollout cannot be compared with others.
    "rollouts": {
        "1": {"rollouts": 1, "baseline": "value"},
        "2": {"rollouts": 2},
        "4": {"rollouts": 4},
        "8": {"rollouts": 8},
    },
}
COMPANIONS: dict[tuple[Factor, str], Settings] = {
    # The log of the label's mean softmax is one number for the whole clip.
    ("credit", "causal"): {"reward": "frame_log_score"},
    ("reward", "clip_log_score"): {"credit": "terminal"},
}
"""Settings that are changed with a value if the base does not allow the value alone."""
MEASURES = ("accuracy", "focus", "focus_per_look")


@dataclass(frozen=True, kw_only=True)
class Output:
    """Change one setting of REINFORCE at a time, over several seeds."""

    out: Path = Path("runs/ablations")
    """Folder of the runs and of the tables; finished runs in it are kept."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds; every variant is trained once for each, and --seed has no effect."""
    factors: tuple[Factor, ...] = get_args(Factor)
    """Settings that are changed, one at a time."""
    only_table: bool = False
    """Train nothing, and write the tables of the finished runs in --out."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("--seeds names no seed: give at least one")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One value of a factor.

    Attributes:
        factor: the setting.
        value: its name in tables and folders.
        settings: the changes to the base.
        config: the changed configuration; None if the rest of the base does not allow it, for the `reason`.
        is_base: whether it is the base itself.
    """

    factor: Factor
    value: str
    settings: Settings
    config: Config | None
    reason: str = ""
    is_base: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether it changes only its factor, so that it can be chosen."""
        return self.settings == FACTORS[self.factor][self.value]

    @property
    def folder(self) -> str:
        """Name of the folder of its runs."""
        return "base" if self.is_base else f"{self.factor}={self.value}"


def variant_of(base: Config, factor: Factor, value: str) -> Variant:
    """Return the variant of the base with a value of a factor."""
    settings = settings_of(base, factor, value)
    try:
        config = base.with_settings(settings)
    except ValueError as error:
        return Variant(factor=factor, value=value, settings=settings, config=None, reason=str(error))
    # None and the value that it stands for are the same setting.
    is_base = _explicit(config) == _explicit(base)
    return Variant(factor=factor, value=value, settings=settings, config=base if is_base else config, is_base=is_base)


def _explicit(config: Config) -> Config:
    return config.with_settings({"class_gradient": config.samples_classes})


def settings_of(base: Config, factor: Factor, value: str) -> Settings:
    """Return the changes that a value of a factor makes to the base, with its companions if it needs them."""
    settings = FACTORS[factor][value]
    try:
        base.with_settings(settings)
    except ValueError:
        return {**settings, **COMPANIONS.get((factor, value), {})}
    return settings


def variants(base: Config) -> list[Variant]:
    """Return every value of every factor."""
    return [variant_of(base, factor, value) for factor, values in FACTORS.items() for value in values]


# ---- training


def ablate(config: Config, out: Path, *, seeds: Sequence[int], factors: Sequence[Factor]) -> None:
    """Train the base and all values of some factors for all seeds, except for finished runs in `out`.

    Raises:
        ValueError: the base cannot be played, or the folder belongs to another base.
        StoppedError: SIGTERM or SIGINT came; the same call resumes.
    """
    source = open_splits(config)["train"]
    base = config.with_settings({"source": absolute_source(config.task.source), "seed": 1}).for_source(source)
    check_playable(base, source)
    _claim_folder(base, factors, out)
    jobs = list(jobs_of(base, out, seeds, factors))
    for number, job in enumerate(jobs, 1):
        if RunFolder(job.path).result() is None:
            print(f"[{number}/{len(jobs)}] {job.path.relative_to(out)}", flush=True)
        train_all([job], train, keep_going=True, announce=number == 1)
        write_tables(out)


def jobs_of(base: Config, out: Path, seeds: Sequence[int], factors: Sequence[Factor]) -> Iterator[Job]:
    """Yield each run once: all of a seed before the next seed, the base first."""
    asked = [variant for variant in variants(base) if variant.factor in factors and variant.config is not None]
    configs = {"base": base} | {variant.folder: variant.config for variant in asked if variant.config is not None}
    for seed in seeds:
        for name, config in configs.items():
            yield Job(config.with_settings({"seed": seed}), out / name / f"seed{seed}")


def _claim_folder(base: Config, factors: Sequence[Factor], out: Path) -> None:
    """Write the base of the ablations, or check that the folder has the same one; factors may be added."""
    path = out / "ablation.json"
    record = read_json(path) if path.exists() else {"config": base.to_json(), "factors": []} | provenance()
    if Config.from_json(record["config"]) != base:
        raise ValueError(f"{out} holds the ablations of another configuration: choose another --out")
    write_json(path, record | {"factors": [name for name in FACTORS if name in (*record["factors"], *factors)]})


# ---- tables


@dataclass(frozen=True, kw_only=True)
class Row:
    """The runs of a value of a factor.

    Attributes:
        variant: the value.
        results: by seed.
        gain: accuracy minus the base's, over films and seeds; None for the base.
        note: what else was changed, or what failed.
        has_failed: whether the numbers of one of its runs overflowed.
        is_chosen: whether validation chooses this value.
    """

    variant: Variant
    results: dict[int, RunResult]
    gain: Interval | None
    note: str
    has_failed: bool = False
    is_chosen: bool = False

    def mean(self, measure: str) -> Interval | None:
        """Return the mean of a measure with its interval over seeds; None if it is unknown for some seed."""
        if measure == "validation_accuracy":
            values = [result.validation.accuracy for result in self.results.values()]
        elif measure == "train_seconds":
            values = [result.train_seconds for result in self.results.values()]
        else:
            values = [getattr(result.measured, measure) for result in self.results.values()]
        return mean_interval(values) if values and None not in values else None


def results_in(folder: Path, config: Config) -> dict[int, RunResult]:
    """Read the finished runs of a configuration, by seed.

    Raises:
        ValueError: a run has another configuration.
    """
    results = {}
    for path in sorted(folder.glob("seed*")):
        run, seed = RunFolder(path), _seed_of(path)
        if (result := run.result()) is not None:
            if run.record().config != config.with_settings({"seed": seed}):
                raise ValueError(f"{path} holds a run of another configuration: choose another --out")
            results[seed] = result
    return results


def _seed_of(folder: Path) -> int:
    return int(folder.name.removeprefix("seed"))


def rows_of(out: Path) -> list[Row]:
    """Return the table's rows from the files of a folder: every value of the factors that were asked for there.

    Raises:
        FileNotFoundError: there are no ablations in the folder.
    """
    record = read_json(out / "ablation.json")
    base = Config.from_json(record["config"])
    of_base = results_in(out / "base", base)
    rows = []
    for factor in record["factors"]:
        group = [_row(out, variant_of(base, factor, value), base, of_base) for value in FACTORS[factor]]
        rows += _with_choice(group)
    return rows


def _row(out: Path, variant: Variant, base: Config, of_base: dict[int, RunResult]) -> Row:
    if variant.config is None:
        return Row(variant=variant, results={}, gain=None, note=f"skipped: {variant.reason}")
    folder = out / variant.folder
    results = results_in(folder, variant.config)
    gain = None
    if results and of_base and not variant.is_base:
        correct = ([result.measured.correct for result in group.values()] for group in (results, of_base))
        gain = crossed_interval(next(correct), next(iter(of_base.values())).measured.films, next(correct))
    failures = [path for path in sorted(folder.glob("seed*/failure.json")) if _seed_of(path.parent) not in results]
    notes = [f"seed {_seed_of(path.parent)} failed: {read_json(path)['reason']}" for path in failures]
    if variant.is_base:
        notes.insert(0, "base")
    elif extra := _companions(base, variant):
        notes.insert(0, f"with {extra}")
    return Row(variant=variant, results=results, gain=gain, note="; ".join(notes), has_failed=bool(failures))


def _companions(base: Config, variant: Variant) -> str:
    """Name the settings other than the factor that a value changes in the base."""
    changed = {name: value for name, value in variant.settings.items() if name != variant.factor}
    return ", ".join(f"{name} {value}" for name, value in changed.items() if base.setting(name) != value)


def _with_choice(rows: Sequence[Row]) -> list[Row]:
    """Mark the value that is best on validation over the seeds that all trained values share; the base wins a tie."""
    trained = [row for row in rows if row.variant.config is not None and row.variant.is_alone and not row.has_failed]
    seeds = set.intersection(*(set(row.results) for row in trained)) if trained else set[int]()
    if not seeds:
        return list(rows)

    def merit(row: Row) -> tuple[float, bool]:
        return sum(row.results[seed].validation.accuracy for seed in sorted(seeds)), row.variant.is_base

    best = max(trained, key=merit)
    return [dataclasses.replace(row, is_chosen=row is best) for row in rows]


HEADER = (
    "factor", "value", "seeds", "validation", "accuracy", "minus base", "focus", "focus per look", "train s", "chosen",
    "note",
)  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, and the number of its comparisons."""
    lines = [
        [
            row.variant.factor, row.variant.value, str(len(row.results)),
            format_interval(row.mean("validation_accuracy")), format_interval(row.mean("accuracy")),
            format_gain(row.gain), format_interval(row.mean("focus")), format_interval(row.mean("focus_per_look")),
            format_interval(row.mean("train_seconds"), digits=0), "yes" if row.is_chosen else "", row.note,
        ]
        for row in rows
    ]  # fmt: skip
    gains = [row.gain for row in rows if row.gain is not None]
    notes = sorted({f"Of some differences: {gain.note}." for gain in gains if gain.note})
    said = [f"Differences have intervals over films and seeds. {comparisons_sentence(len(gains))}", *notes]
    return markdown(HEADER, lines) + "\n" + "\n\n".join(said) + "\n"


def table_as_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV: for each measure the mean and half the 95 % interval, empty if unknown."""
    columns = ["validation_accuracy", *MEASURES, "train_seconds"]
    names = [name for column in (*columns, "minus_base") for name in (column, f"{column}_half_interval")]
    lines = []
    for row in rows:
        variant, intervals = row.variant, [*(row.mean(column) for column in columns), row.gain]
        numbers = [number for interval in intervals for number in _numbers(interval)]
        seeds = " ".join(map(str, row.results))
        start = [variant.factor, variant.value, json.dumps(dict(variant.settings)), seeds]
        lines.append([*start, *numbers, variant.is_base, row.is_chosen, row.note])
    return comma_separated(["factor", "value", "settings", "seeds", *names, "is_base", "is_chosen", "note"], lines)


def _numbers(interval: Interval | None) -> list[float | None]:
    if interval is None:
        return [None, None]
    return [interval.mean, None if interval.half == float("inf") else interval.half]


def write_tables(out: Path) -> str:
    """Write table.md and table.csv from the runs in a folder, and return the former.

    Raises:
        FileNotFoundError: there are no ablations in the folder.
        SaveError: a table cannot be written.
    """
    rows = rows_of(out)
    write_file(out / "table.md", table(rows))
    write_file(out / "table.csv", table_as_csv(rows))
    return table(rows)


def parse_arguments(arguments: Sequence[str] | None = None) -> CommandLine[Output]:
    """Read the command line."""
    line = parse_command(Output, arguments, models=("reinforce",), program="python -m agents.ablate")
    if line.models != ("reinforce",):
        raise ValueError(f"--models must be reinforce, whose settings are changed, got {' '.join(line.models)}")
    return line


def main() -> None:
    """Do what the command line asks."""
    line = parse_arguments()
    if not line.output.only_table:
        ablate(line.config, line.output.out, seeds=line.output.seeds, factors=line.output.factors)
    print(write_tables(line.output.out))


if __name__ == "__main__":
    run_command(main)
