"""Change one setting of a run at a time, over several seeds, and put what came of it into a table.

    python -m agents.ablate --source STORE --out runs/ablations --seeds 1 2 3
    python -m agents.ablate --source STORE --out runs/ablations --factors credit baseline --updates 500

The learned policy alone is trained, for the base configuration and for every other value of each factor, into
OUT/base/seedS and OUT/<factor>=<value>/seedS. The same command goes on after an interruption and skips what is
finished. A value that the base does not take alone comes with what it needs (COMPANIONS), which the table notes, and is
not chosen. OUT/table.md and OUT/table.csv are written anew after every run, from the runs' records alone. The value
that a factor is best left at is chosen on validation, never on the test split.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from glimpse_env.files import write_atomically

from .learning.config import Config, Settings
from .playing.envs import check_playable, open_splits
from .reinforce import train
from .runs.command import run_command
from .runs.folder import provenance, read_json, told_failures, write_json
from .runs.signals import Interruption, StoppedError
from .tables.statistics import mean_and_interval, shown

Factor = Literal[
    "credit", "baseline", "encoder", "slice_weights", "penalty", "eta", "class_gradient", "glimpse_order", "reward",
    "rollouts",
]  # fmt: skip

FACTORS: dict[Factor, dict[str, Settings]] = {
    "credit": {name: {"credit": name} for name in ("causal", "terminal")},
    "baseline": {name: {"baseline": name} for name in ("none", "value", "leave_one_out")},
    "encoder": {name: {"policy.encoder": name} for name in ("sum", "what_and_where")},
    "slice_weights": {name: {"policy.slice_weights": name} for name in ("uniform", "softmax")},
    "penalty": {f"{weight:g}": {"penalty": weight} for weight in (0.0, 0.1, 1.0, 10.0)},
    "eta": {f"{eta:g}": {"abstain": True, "eta": eta} for eta in (0.25, 0.5, 0.75)},
    "class_gradient": {name: {"class_gradient": name == "drawn"} for name in ("likeliest", "drawn")},
    "glimpse_order": {name: {"policy.glimpse_order": name} for name in ("joint", "sequential")},
    "reward": {name: {"reward": name} for name in ("eq7", "frame_log_score", "clip_log_score")},
    # A single rollout has no others to be compared with.
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
"""What is changed with a value where the base does not take it alone."""
MEASURES = ("validation_accuracy", "accuracy", "focus", "focus_per_look")


@dataclass(frozen=True, kw_only=True)
class Arguments(Config):
    """Change one setting of a run at a time, over several seeds; `--seed` and `--controls` have no effect."""

    out: Path = Path("runs/ablations")
    """Folder of the runs and of the tables; what is finished there is not trained again."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Of the runs; differences to the base are paired by them."""
    factors: tuple[Factor, ...] = get_args(Factor)
    """Which settings are changed, one at a time."""
    only_table: bool = False
    """Train nothing, and write the tables of what is in the folder."""

    @property
    def config(self) -> Config:
        """The base, without what only this command knows."""
        return self.part(controls=(), seed=Config().seed)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One value of a factor."""

    factor: Factor
    value: str
    settings: Settings
    """What it changes in the base."""
    config: Config | None
    """None where the value does not go with the rest of the base, for the `reason`."""
    reason: str = ""
    is_base: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether it changes nothing but its factor, so that it can be chosen."""
        return self.settings == FACTORS[self.factor][self.value]

    @property
    def folder(self) -> str:
        """The name of the folder of its runs."""
        return "base" if self.is_base else f"{self.factor}={self.value}"


def variant_of(base: Config, factor: Factor, value: str) -> Variant:
    """Return what a value of a factor makes of the base."""
    settings = settings_of(base, factor, value)
    try:
        config = base.with_settings(settings)
    except ValueError as error:
        return Variant(factor=factor, value=value, settings=settings, config=None, reason=str(error))
    # None and what it stands for are the same setting.
    explicit = dataclasses.replace(base, class_gradient=base.draws_classes)
    is_base = dataclasses.replace(config, class_gradient=config.draws_classes) == explicit
    return Variant(factor=factor, value=value, settings=settings, config=base if is_base else config, is_base=is_base)


def settings_of(base: Config, factor: Factor, value: str) -> Settings:
    """Return what a value of a factor changes in the base: with its companions where it does not go alone."""
    settings = FACTORS[factor][value]
    try:
        base.with_settings(settings)
    except ValueError:
        return {**settings, **COMPANIONS.get((factor, value), {})}
    return settings


def variants(base: Config) -> list[Variant]:
    """Return every value of every factor."""
    return [variant_of(base, factor, value) for factor, values in FACTORS.items() for value in values]


def finished(folder: Path, config: Config) -> dict[str, Any] | None:
    """Return the result of the run of `config` in a folder, or None where there is none yet.

    Raises:
        ValueError: it is the run of another configuration.
    """
    if not (folder / "result.json").exists():
        return None
    if Config.from_json(read_json(folder / "config.json")["config"]) != config:
        raise ValueError(f"{folder} holds a run of another configuration: choose another --out")
    result: dict[str, Any] = read_json(folder / "result.json")
    return result


# ---- training


def ablate(config: Config, out: Path, *, seeds: Sequence[int], factors: Sequence[Factor]) -> None:
    """Train the base and all values of some factors for all seeds, or what of it is not finished yet in `out`.

    Raises:
        ValueError: the base cannot be played; the folder belongs to another base.
        StoppedError: SIGTERM or SIGINT came; what is there can be gone on with.
    """
    if not seeds:
        raise ValueError("name at least one seed")
    source = open_splits(config)["train"]
    base = config.for_source(source)
    check_playable(base, source)
    _claim_folder(base, factors, out)
    runs = list(_runs(base, seeds, factors))
    write_tables(out)
    with Interruption() as interruption:
        for number, (name, run) in enumerate(runs, 1):
            folder = out / name / f"seed{run.seed}"
            if finished(folder, run) is None:
                print(f"[{number}/{len(runs)}] {name}, seed {run.seed}", flush=True)
                _train_or_note(run, folder)
                write_tables(out)
            if interruption.signum:
                raise StoppedError(interruption.signum, f"{name}, seed {run.seed}")


def _runs(base: Config, seeds: Sequence[int], factors: Sequence[Factor]) -> Iterator[tuple[str, Config]]:
    """Yield the folder and the configuration of each run once, the base first, and all of a seed before the next."""
    asked = [variant for variant in variants(base) if variant.factor in factors and variant.config is not None]
    configs = {"base": base} | {variant.folder: variant.config for variant in asked if variant.config is not None}
    for seed in seeds:
        for name, config in configs.items():
            yield name, dataclasses.replace(config, seed=seed)


def _train_or_note(config: Config, folder: Path) -> None:
    """Train a run; where its numbers overflow, note it and let the others go on."""
    try:
        train(config, folder)
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        write_json(folder / "failure.json", {"reason": str(error)})


def _claim_folder(base: Config, factors: Sequence[Factor], out: Path) -> None:
    """Write what the ablations start from, or check that it is what those in the folder do; factors may be added."""
    path = out / "ablation.json"
    record = read_json(path) if path.exists() else {"config": base.to_json(), "factors": []} | provenance()
    if Config.from_json(record["config"]) != base:
        raise ValueError(f"{out} holds the ablations of another configuration: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, record | {"factors": [name for name in FACTORS if name in (*record["factors"], *factors)]})


def _base_of(out: Path) -> Config:
    return Config.from_json(read_json(out / "ablation.json")["config"])


# ---- tables


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a value of a factor came to; each measure by seed, without those that a source does not have."""

    variant: Variant
    measures: dict[str, dict[int, float]]
    gains: dict[int, float]
    """Accuracy minus the base's of the same seed."""
    note: str
    failed: bool = False
    """Whether the numbers of one of its runs overflowed."""
    is_chosen: bool = False

    @property
    def seeds(self) -> list[int]:
        """The seeds that are finished."""
        return sorted(self.measures["accuracy"])


def _seed_of(folder: Path) -> int:
    return int(folder.name.removeprefix("seed"))


def measures_of(folder: Path, config: Config) -> dict[str, dict[int, float]]:
    """Read what the finished runs of a configuration measured, by seed."""
    measures: dict[str, dict[int, float]] = {name: {} for name in (*MEASURES, "train_seconds")}
    for path in folder.glob("seed*"):
        seed = _seed_of(path)
        result = finished(path, dataclasses.replace(config, seed=seed))
        if result is None:
            continue
        measures["train_seconds"][seed] = result["train_seconds"]
        for name in MEASURES:
            if "learned" in result[name]:
                measures[name][seed] = result[name]["learned"]
    return measures


def rows_of(out: Path) -> list[Row]:
    """Return the table's rows from what is on disk: every value of the factors that were asked for there."""
    base, asked = _base_of(out), read_json(out / "ablation.json")["factors"]
    of_base = measures_of(out / "base", base)["accuracy"]
    rows = [_row(out, variant, of_base) for variant in variants(base) if variant.factor in asked]
    grouped = [[row for row in rows if row.variant.factor == factor] for factor in FACTORS if factor in asked]
    return [row for group in grouped for row in _with_choice(group)]


def _row(out: Path, variant: Variant, of_base: Mapping[int, float]) -> Row:
    if variant.config is None:
        empty: dict[str, dict[int, float]] = {name: {} for name in (*MEASURES, "train_seconds")}
        return Row(variant=variant, measures=empty, gains={}, note=f"skipped: {variant.reason}")
    folder = out / variant.folder
    measures = measures_of(folder, variant.config)
    accuracy = measures["accuracy"]
    gains = {seed: accuracy[seed] - of_base[seed] for seed in accuracy if seed in of_base}
    failures = [path for path in sorted(folder.glob("seed*/failure.json")) if _seed_of(path.parent) not in accuracy]
    notes = [f"seed {_seed_of(path.parent)} failed: {read_json(path)['reason']}" for path in failures]
    if variant.is_base:
        notes.insert(0, "base")
    elif extra := _extra_settings(_base_of(out), variant):
        notes.insert(0, f"with {extra}")
    gains = {} if variant.is_base else gains
    return Row(variant=variant, measures=measures, gains=gains, note="; ".join(notes), failed=bool(failures))


def _extra_settings(base: Config, variant: Variant) -> str:
    """Name what else a value changes in the base, beside the factor itself."""
    changed = {
        name: value for name, value in variant.settings.items() if name.removeprefix("policy.") != variant.factor
    }
    return ", ".join(f"{name} {value}" for name, value in changed.items() if getattr(base, name) != value)


def _with_choice(rows: Sequence[Row]) -> list[Row]:
    """Mark the value that is best on validation over the seeds that all trainable ones have; the base in a tie."""
    trained = [row for row in rows if row.variant.config is not None and row.variant.is_alone and not row.failed]
    seeds = set.intersection(*(set(row.seeds) for row in trained)) if trained else set[int]()
    if not seeds:
        return list(rows)

    def merit(row: Row) -> tuple[float, bool]:
        scores = [row.measures["validation_accuracy"][seed] for seed in sorted(seeds)]
        return float(np.mean(scores)), row.variant.is_base

    best = max(trained, key=merit)
    return [dataclasses.replace(row, is_chosen=row is best) for row in rows]


HEADER = (
    "factor", "value", "seeds", "validation", "accuracy", "minus base", "focus", "focus per look", "train s", "chosen",
    "note",
)  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """Lay the rows out as a Markdown table: means over the seeds and 95 % intervals."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    for row in rows:
        cells = [
            row.variant.factor,
            row.variant.value,
            str(len(row.seeds)),
            shown([*row.measures["validation_accuracy"].values()]),
            shown([*row.measures["accuracy"].values()]),
            shown([*row.gains.values()], signed=True),
            shown([*row.measures["focus"].values()]),
            shown([*row.measures["focus_per_look"].values()]),
            shown([*row.measures["train_seconds"].values()], digits=0),
            "yes" if row.is_chosen else "",
            row.note.replace("|", "\\|"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def comma_separated(rows: Sequence[Row]) -> str:
    """Lay the rows out as CSV: for each measure the mean and half the 95 % interval, empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [*MEASURES, "train_seconds", "minus_base"]
    names = [name for column in columns for name in (column, f"{column}_half_interval")]
    writer.writerow(["factor", "value", "settings", "seeds", *names, "is_base", "is_chosen", "note"])
    for row in rows:
        settings = json.dumps(dict(row.variant.settings))
        measures = row.measures | {"minus_base": row.gains}
        numbers = [number for column in columns for number in _numbers(measures[column])]
        seeds = " ".join(map(str, row.seeds))
        variant = row.variant
        writer.writerow(
            [variant.factor, variant.value, settings, seeds, *numbers, variant.is_base, row.is_chosen, row.note]
        )
    return text.getvalue()


def _numbers(values: Mapping[int, float]) -> list[float | str]:
    known = mean_and_interval(list(values.values())) if values else (np.inf, np.inf)
    return [number if np.isfinite(number) else "" for number in known]


def write_tables(out: Path) -> str:
    """Write table.md and table.csv from the records in a folder, and return the former.

    Raises:
        FileNotFoundError: there are no ablations in the folder.
        SaveError: a table cannot be written.
    """
    rows = rows_of(out)
    for name, text in (("table.md", markdown(rows)), ("table.csv", comma_separated(rows))):
        with told_failures(out / name):
            write_atomically(out / name, text.encode())
    return markdown(rows)


def main(arguments: Arguments) -> None:
    """Do what the command line asks."""
    if not arguments.only_table:
        ablate(arguments.config, arguments.out, seeds=arguments.seeds, factors=arguments.factors)
    print(write_tables(arguments.out))


if __name__ == "__main__":
    run_command(main, Arguments)
