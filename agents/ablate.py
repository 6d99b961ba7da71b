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
from collections.abc import Sequence
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
from .tables.intervals import Interval
from .tables.layout import cells_of, comma_separated, format_gain, format_interval, markdown, notes_on
from .tables.records import accuracy_gain, mean_if_known

Factor = Literal[
    "credit", "baseline", "encoder", "slice_weights", "penalty", "eta", "class_gradient", "glimpse_order", "reward",
    "rollouts", "scorer", "standardise",
]  # fmt: skip

FACTORS: dict[Factor, dict[str, Settings]] = {
    "credit": {name: {"credit": name} for name in ("causal", "terminal")},
    "baseline": {name: {"baseline": name} for name in ("none", "value", "leave_one_out")},
    "encoder": {name: {"encoder": name} for name in ("sum", "what_and_where")},
    "slice_weights": {name: {"slice_weights": name} for name in ("uniform", "softmax", "attended")},
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
    "scorer": {name: {"scorer": name} for name in ("grid", "memory")},
    "standardise": {name: {"standardise": name == "yes"} for name in ("no", "yes")},
}
COMPANIONS: dict[tuple[Factor, str], Settings] = {
    # The log of the label's mean softmax is one number for the whole clip.
    ("credit", "causal"): {"reward": "frame_log_score"},
    ("reward", "clip_log_score"): {"credit": "terminal"},
    # Only a memory scores single slices, and it holds what was looked at.
    ("slice_weights", "attended"): {"scorer": "memory", "observation": "glimpsed"},
    ("scorer", "grid"): {"slice_weights": "uniform"},
    ("scorer", "memory"): {"observation": "glimpsed"},
}
"""Settings that are changed with a value if the base does not allow the value alone."""
COLUMNS = ("validation_accuracy", "accuracy", "minus_base", "focus", "focus_per_look", "train_seconds")


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
        """Whether it needs no companions, so that it can be chosen."""
        return self.settings == FACTORS[self.factor][self.value]

    @property
    def folder(self) -> str:
        """Name of the folder of its runs."""
        return "base" if self.is_base else f"{self.factor}={self.value}"


def variant_of(base: Config, factor: Factor, value: str) -> Variant:
    """Return the variant of the base with a value of a factor, and with its companions if it needs them."""
    alone, reason = FACTORS[factor][value], ""
    for settings in (alone, {**alone, **COMPANIONS.get((factor, value), {})}):
        try:
            config = base.with_settings(settings)
        except ValueError as error:
            reason = str(error)
            continue
        # None and the value that it stands for are the same setting.
        ours, bases = (one.with_settings({"class_gradient": one.samples_classes}) for one in (config, base))
        is_base = ours == bases
        return Variant(
            factor=factor, value=value, settings=settings, config=base if is_base else config, is_base=is_base
        )
    return Variant(factor=factor, value=value, settings=alone, config=None, reason=reason)


def variants(base: Config, factors: Sequence[Factor] = get_args(Factor)) -> list[Variant]:
    """Return every value of some factors."""
    return [variant_of(base, factor, value) for factor in factors for value in FACTORS[factor]]


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
    jobs = jobs_of(base, out, seeds, factors)
    for number, job in enumerate(jobs, 1):
        if RunFolder(job.path).result() is None:
            print(f"[{number}/{len(jobs)}] {job.path.relative_to(out)}", flush=True)
        train_all([job], train, keep_going=True, announce=number == 1)
        write_tables(out)


def jobs_of(base: Config, out: Path, seeds: Sequence[int], factors: Sequence[Factor]) -> list[Job]:
    """Return each run once: all of a seed before the next seed, the base first."""
    asked = {one.folder: one.config for one in variants(base, factors) if one.config is not None}
    configs = {"base": base} | asked
    return [
        Job(config.with_settings({"seed": seed}), out / name / f"seed{seed}")
        for seed in seeds
        for name, config in configs.items()
    ]


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

    def column(self, name: str) -> Interval | None:
        """Return a column of the table: the gain, or a mean over seeds; None if it is unknown for some seed."""
        if name == "minus_base":
            return self.gain
        return mean_if_known([_value_of(result, name) for result in self.results.values()])


def _value_of(result: RunResult, column: str) -> float | None:
    if column == "validation_accuracy":
        return result.validation.accuracy
    return result.train_seconds if column == "train_seconds" else getattr(result.measured, column)


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
    groups = ([_row(out, one, base, of_base) for one in variants(base, [factor])] for factor in record["factors"])
    return [row for group in groups for row in _with_choice(group)]


def _row(out: Path, variant: Variant, base: Config, of_base: dict[int, RunResult]) -> Row:
    if variant.config is None:
        return Row(variant=variant, results={}, gain=None, note=f"skipped: {variant.reason}")
    folder = out / variant.folder
    results, gain = results_in(folder, variant.config), None
    if results and of_base and not variant.is_base:
        gain = accuracy_gain(*([one.measured for one in runs.values()] for runs in (results, of_base)))
    failures = {_seed_of(path.parent): read_json(path)["reason"] for path in sorted(folder.glob("seed*/failure.json"))}
    notes = [f"seed {seed} failed: {reason}" for seed, reason in failures.items() if seed not in results]
    others = {name: value for name, value in variant.settings.items() if name != variant.factor}
    companions = ", ".join(f"{name} {value}" for name, value in others.items() if base.setting(name) != value)
    first = "base" if variant.is_base else companions and f"with {companions}"
    note = "; ".join(filter(None, [first, *notes]))
    return Row(variant=variant, results=results, gain=gain, note=note, has_failed=bool(notes))


def _with_choice(rows: Sequence[Row]) -> list[Row]:
    """Mark the value that is best on validation over the seeds that all trained values share; the base wins a tie."""
    trained = [row for row in rows if row.variant.config is not None and row.variant.is_alone and not row.has_failed]
    seeds = sorted(set.intersection(*(set(row.results) for row in trained))) if trained else []

    def merit(row: Row) -> tuple[float, bool]:
        return sum(row.results[seed].validation.accuracy for seed in seeds), row.variant.is_base

    best = max(trained, key=merit) if seeds else None
    return [dataclasses.replace(row, is_chosen=row is best) for row in rows]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, and the number of its comparisons."""
    header = ["factor", "value", "seeds", *(name.replace("_", " ") for name in COLUMNS), "chosen", "note"]
    lines = []
    for row in rows:
        cells = {name: format_interval(row.column(name)) for name in COLUMNS} | {
            "minus_base": format_gain(row.gain), "train_seconds": format_interval(row.column("train_seconds"), digits=0)
        }  # fmt: skip
        start = [row.variant.factor, row.variant.value, str(len(row.results))]
        lines.append([*start, *cells.values(), "yes" if row.is_chosen else "", row.note])
    notes = notes_on([row.gain for row in rows if row.gain is not None])
    return markdown(header, lines) + "\n" + "\n\n".join(notes) + "\n"


def table_as_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV: for each column the mean and half the 95 % interval, empty if unknown."""
    names = [name for column in COLUMNS for name in (column, f"{column}_half_interval")]
    lines = []
    for row in rows:
        variant, numbers = row.variant, [cell for name in COLUMNS for cell in cells_of(row.column(name))]
        start = [variant.factor, variant.value, json.dumps(dict(variant.settings)), " ".join(map(str, row.results))]
        lines.append([*start, *numbers, variant.is_base, row.is_chosen, row.note])
    return comma_separated(["factor", "value", "settings", "seeds", *names, "is_base", "is_chosen", "note"], lines)


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
