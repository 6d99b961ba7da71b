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
from .runs.folder import RunFolder
from .runs.jobs import Job, train_all
from .runs.provenance import provenance
from .tables.grid import SeededOutput
from .tables.intervals import Interval
from .tables.layout import Table, cells_of, comma_separated, format_gain, format_interval, notes_on
from .tables.records import Record, Row

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
    "rollouts": {str(n): ({"rollouts": 1, "baseline": "value"} if n == 1 else {"rollouts": n}) for n in (1, 2, 4, 8)},
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
class Output(SeededOutput):
    """Change one setting of REINFORCE at a time, over several seeds."""

    out: Path = Path("runs/ablations")
    """Folder of the runs and of the tables; finished runs in it are kept."""
    factors: tuple[Factor, ...] = get_args(Factor)
    """Settings that are changed, one at a time."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One value of a factor."""

    factor: Factor
    value: str
    """Name in tables and folders."""
    settings: Settings
    """Changes to the base."""
    config: Config | None
    """The changed configuration; None if the rest of the base does not allow it, for the `reason`."""
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
        config, is_base = (base, True) if ours == bases else (config, False)
        return Variant(factor=factor, value=value, settings=settings, config=config, is_base=is_base)
    return Variant(factor=factor, value=value, settings=alone, config=None, reason=reason)


def variants(base: Config, factors: Sequence[Factor] = get_args(Factor)) -> list[Variant]:
    """Return every value of some factors."""
    return [variant_of(base, factor, value) for factor in factors for value in FACTORS[factor]]


def ablate(config: Config, out: Path, *, seeds: Sequence[int], factors: Sequence[Factor]) -> None:
    """Train the base and all values of some factors for all seeds, except for finished runs in `out`.

    Raises:
        ValueError: the base cannot be played, or the folder belongs to another base.
        StoppedError: SIGTERM or SIGINT came; the same call resumes.
    """
    source = open_splits(config)["train"]
    base = config.with_settings({"source": absolute_source(config.task.source), "seed": 1}).for_source(source)
    check_playable(base, source)
    path = out / "ablation.json"
    record = read_json(path) if path.exists() else {"config": base.to_json(), "factors": []} | provenance()
    if Config.from_json(record["config"]) != base:
        raise ValueError(f"{out} holds the ablations of another configuration: choose another --out")
    write_json(path, record | {"factors": [name for name in FACTORS if name in (*record["factors"], *factors)]})
    jobs = jobs_of(base, out, seeds, factors)
    for number, job in enumerate(jobs, 1):
        if RunFolder(job.path).result() is None:
            print(f"[{number}/{len(jobs)}] {job.path.relative_to(out)}", flush=True)
        train_all([job], train, keep_going=True, announce=number == 1)
        write_tables(out)


def jobs_of(base: Config, out: Path, seeds: Sequence[int], factors: Sequence[Factor]) -> list[Job]:
    """Return each run once: all of a seed before the next seed, the base first."""
    configs = {"base": base} | {one.folder: one.config for one in variants(base, factors) if one.config is not None}
    return [
        Job(config.with_settings({"seed": seed}), out / name / f"seed{seed}")
        for seed in seeds
        for name, config in configs.items()
    ]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The finished runs of a value of a factor, and those of the base."""

    variant: Variant
    records: tuple[Record, ...]
    base: tuple[Record, ...]
    note: str
    """Other changes, and failures."""
    has_failed: bool

    def column(self, name: str) -> Interval | None:
        """Return a mean over seeds, None if it is unknown for some; "minus_base" is the gain over films and seeds."""
        if name != "minus_base":
            return Row(self.records).mean(name)
        can_compare = self.records and self.base and not self.variant.is_base
        return Row(self.records).accuracy_gain(Row(self.base)) if can_compare else None


def results_of(out: Path) -> list[Result]:
    """Read the runs in a folder: every value of the factors that were asked for there.

    Raises:
        FileNotFoundError: there are no ablations in the folder.
        ValueError: a run has another configuration.
    """
    record = read_json(out / "ablation.json")
    base = Config.from_json(record["config"])
    of_base, results = _records_in(out / "base", base), []
    for variant in variants(base, record["factors"]):
        folder = out / variant.folder
        records = _records_in(folder, variant.config) if variant.config else ()
        failed = [path for path in sorted(folder.glob("seed*/failure.json")) if RunFolder(path.parent).result() is None]
        notes = [f"seed {_seed_of(path.parent)} failed: {read_json(path)['reason']}" for path in failed]
        others = {name: value for name, value in variant.settings.items() if name != variant.factor}
        companions = ", ".join(f"{name} {value}" for name, value in others.items() if base.setting(name) != value)
        first = "base" if variant.is_base else companions and f"with {companions}"
        note = "; ".join(filter(None, [first, *notes])) if variant.config else f"skipped: {variant.reason}"
        results.append(Result(variant=variant, records=records, base=of_base, note=note, has_failed=bool(failed)))
    return results


def _records_in(folder: Path, config: Config) -> tuple[Record, ...]:
    runs = [RunFolder(path) for path in sorted(folder.glob("seed*"))]
    records = tuple(Record(run, run.record(), result) for run in runs if (result := run.result()) is not None)
    for record in records:
        if record.record.config != config.with_settings({"seed": _seed_of(record.run.path)}):
            raise ValueError(f"{record.run.path} holds a run of another configuration: choose another --out")
    return records


def _seed_of(folder: Path) -> int:
    return int(folder.name.removeprefix("seed"))


def chosen(results: Sequence[Result]) -> list[Result]:
    """Return each factor's value that is best on validation, over the seeds that all trained values share.

    The base wins a tie; values with companions and values that failed are no candidates.
    """
    best = []
    for factor in FACTORS:
        trained = [one for one in results if one.variant.factor == factor and one.variant.config is not None]
        trained = [one for one in trained if one.variant.is_alone and not one.has_failed]
        merits = [
            {record.seed: record.number("validation_accuracy") or 0.0 for record in one.records} for one in trained
        ]
        if shared := set.intersection(*map(set, merits)) if merits else set():
            sums = [sum(merit[seed] for seed in sorted(shared)) for merit in merits]
            best.append(max(zip(sums, trained, strict=True), key=lambda pair: (pair[0], pair[1].variant.is_base))[1])
    return best


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table, and the number of its comparisons."""
    header = ["factor", "value", "seeds", *(name.replace("_", " ") for name in COLUMNS), "chosen", "note"]
    lines, best, gains = [], chosen(results), []
    for one in results:
        columns = {name: one.column(name) for name in COLUMNS}
        cells = {name: format_interval(value) for name, value in columns.items()}
        cells["minus_base"] = format_gain(columns["minus_base"])
        cells["train_seconds"] = format_interval(columns["train_seconds"], digits=0)
        start = [one.variant.factor, one.variant.value, str(len(one.records))]
        lines.append([*start, *cells.values(), "yes" if one in best else "", one.note])
        gains += [columns["minus_base"]] if columns["minus_base"] else []
    return "\n".join([Table(header, lines).markdown(), "\n\n".join(notes_on(gains)), ""])


def table_as_csv(results: Sequence[Result]) -> str:
    """Return the results as CSV: for each column the mean and half the 95 % interval, empty if unknown."""
    names = [name for column in COLUMNS for name in (column, f"{column}_half_interval")]
    lines, best = [], chosen(results)
    for one in results:
        variant, numbers = one.variant, [cell for name in COLUMNS for cell in cells_of(one.column(name))]
        seeds = " ".join(str(record.seed) for record in one.records)
        start = [variant.factor, variant.value, json.dumps(dict(variant.settings)), seeds]
        lines.append([*start, *numbers, variant.is_base, one in best, one.note])
    return comma_separated(["factor", "value", "settings", "seeds", *names, "is_base", "is_chosen", "note"], lines)


def write_tables(out: Path) -> str:
    """Write table.md and table.csv from the runs in a folder, and return the former."""
    results = results_of(out)
    write_file(out / "table.md", table(results))
    write_file(out / "table.csv", table_as_csv(results))
    return table(results)


def parse_arguments(arguments: Sequence[str] | None = None) -> CommandLine[Output]:
    """Read the command line."""
    line = parse_command(Output, arguments, models=("reinforce",), program="videoglimpse ablate")
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
