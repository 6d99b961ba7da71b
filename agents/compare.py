"""Train every model alike and put what they came to side by side, at equal numbers of glimpses.

    python -m agents.compare --source STORE --seeds 1 2 3 --budgets 1 5 --models random soft gumbel mean --out OUT
    python -m agents.compare --source STORE --budgets 1 2 3 5 8 16 49 --models random gumbel soft --out OUT
    python -m agents.compare --out OUT --only-table --reported FILE    # from the records alone, beside others' figures

Other flags are those of agents/reinforce.py. "learned", REINFORCE with m glimpses, is always there; what does not
depend on m (`soft`, `soft_hidden`, `mean`, `max`, `all`, `unlimited`) is trained at the first budget alone. Runs are
ordinary ones, OUT/m<m>/seed<seed>, which agents.report and --evaluate take: what is finished is not trained again, what
was stopped goes on, and models, seeds and budgets can be added later.

From these records come table.md, table.csv and the figures. Intervals are Student's 95 % over seeds; differences to
random glimpses are paired by seed at the same m, those to REINFORCE by test video, with the interval over videos.
Checkpoints were chosen by validation; figures are of the test split.
Figures that others published stand below, marked as reported: a CSV file with the columns model, measure (one of
table.md's, by its name in table.csv), value and source.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from agents.building import greedy_manner, make_envs, make_policy, open_splits
from agents.config import Config, Control, parse_as, spelled
from agents.evaluation import MEASURES
from agents.figures import anytime_figure, budget_figure, compute_figure, save_figure
from agents.interruption import StoppedError
from agents.macs import macs_per_clip
from agents.reinforce import train
from agents.results import arm_folder, arms_on_disk
from agents.rollout import SOFT, Looking
from agents.runs import Checkpoints, SaveError, read_json, told_failures, write_json
from agents.seeds import mean_and_interval
from glimpse_env.backbones import DeviceError
from glimpse_env.decode import VideoError
from glimpse_env.files import write_atomically

BUDGETED: tuple[Looking, ...] = ("learned", "gumbel", "soft_top", "random", "centre", "oracle")
TITLES: dict[Looking, str] = {
    "learned": "REINFORCE, m glimpses",
    "unlimited": "REINFORCE, any number of glimpses",
    "gumbel": "Gumbel straight-through, m glimpses",
    "soft": "soft attention, content and state",
    "soft_hidden": "soft attention, state alone",
    "soft_top": "soft attention, its m likeliest cells",
    "random": "random, m cells",
    "centre": "centre, m cells",
    "oracle": "oracle, m cells",
    "mean": "mean of all cells",
    "max": "maximum over all cells",
    "all": "all cells, through the agent's encoder",
}
SHOWN = (
    "accuracy", "top3", "mean_average_precision", "hit_at_1", "hit_at_3", "vote_accuracy", "reward", "focus_per_look",
    "attention_on_actor", "glimpses_per_frame",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Arguments(Config):
    """Train models alike, for several seeds and budgets of glimpses, and compare them; `--seed` has no effect."""

    out: Path = Path("runs/comparison")
    """Folder of the comparison; what is there already is kept and gone on with."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """One run of every model for each."""
    budgets: tuple[int, ...] = ()
    """Numbers m of glimpses per frame; --glimpses alone without it."""
    models: tuple[Control, ...] = ("random", "soft", "soft_hidden", "gumbel", "mean", "max")
    """What is compared with REINFORCE, by its name in --controls."""
    only_table: bool = False
    """Write tables and figures from what is there, and train nothing; the source is needed to count compute alone."""
    reported: Path | None = None
    """CSV of figures that others published: model, measure, value, source."""
    tuned: Path | None = None
    """The settings.json in which agents.tune keeps what each model learns best with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds must name different seeds, got {self.seeds}")
        if self.controls != Config().controls:
            raise ValueError(f"--controls {' '.join(self.controls)}: what is compared is told by --models")
        if len(set(self.budgets)) < len(self.budgets) or any(budget < 1 for budget in self.budgets):
            raise ValueError(f"--budgets must be different numbers of at least 1, got {self.budgets}")

    def runs(self) -> list[tuple[Path, Config]]:
        """Return the folder and the configuration of every run that is asked for."""
        own = self.part().tuned_by(self.tuned)
        asked_for = {arm: settings for arm, settings in own.arm_settings.items() if arm in ("learned", *self.models)}
        own = dataclasses.replace(own, arm_settings=asked_for)
        budgets = self.budgets or (self.glimpses,)
        asked = []
        for budget in budgets:
            models = self.models if budget == budgets[0] else tuple(set(self.models) & set(BUDGETED))
            controls = tuple(model for model in self.models if model in models)
            for seed in self.seeds:
                config = dataclasses.replace(own, glimpses=budget, seed=seed, controls=controls)
                asked.append((self.out / f"m{budget}" / f"seed{seed}", config))
        return asked


@dataclass(frozen=True)
class Record:
    """What one arm of one run came to on the test split."""

    looking: Looking
    budget: int
    seed: int
    measured: dict[str, Any]
    run: dict[str, Any]  # of the run's config.json
    folder: Path


def read_records(out: Path) -> list[Record]:
    """Read every finished arm of a comparison.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the runs differ in more than seed, budget and models.
    """
    records, first = [], None
    settings: dict[Looking, tuple[Path, Any]] = {}
    for path in sorted(out.glob("m*/seed*/config.json")):
        run = read_json(path)
        config = Config.from_json(run["config"])
        alike = dataclasses.replace(config, seed=0, glimpses=1, controls=(), arm_settings={})
        if first is None:
            first = (path, alike)
        if alike != first[1]:
            names = [name for name, value in alike.to_json().items() if value != first[1].to_json()[name]]
            raise ValueError(f"{path} differs from {first[0]} in {', '.join(names)}: compare like with like")
        for looking in arms_on_disk(path.parent):
            own = config.arm_settings.get(looking)
            earlier = settings.setdefault(looking, (path, own))
            if own != earlier[1]:
                raise ValueError(
                    f"{path} differs from {earlier[0]} in the settings of {looking!r}: compare like with like"
                )
            evaluation = read_json(arm_folder(path.parent, looking) / "evaluation.json")
            measured = evaluation["test"] | {
                name: evaluation[name] for name in ("validation_accuracy", "train_seconds")
            }
            measured["git_commit"] = evaluation.get("git_commit", run["git_commit"])
            records.append(Record(looking, config.glimpses, config.seed, measured, run, path.parent))
    if not records:
        raise FileNotFoundError(f"no finished runs in {out}: train them first, without --only-table")
    return records


@dataclass(frozen=True)
class Row:
    """One model at one budget: the records of its seeds."""

    looking: Looking
    budget: int | None  # None where the model does not depend on m
    records: tuple[Record, ...]

    def values(self, name: str) -> list[float]:
        """Return what was measured, a value for each seed; none where it is unknown for some."""
        values = [record.measured.get(name) for record in self.records]
        return [] if any(value is None for value in values) else values  # type: ignore[return-value]


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Group records by model and budget, in the order of TITLES, smaller budgets first."""
    groups: dict[tuple[Looking, int | None], list[Record]] = {}
    for record in sorted(records, key=lambda record: (list(TITLES).index(record.looking), record.budget, record.seed)):
        key = (record.looking, record.budget if record.looking in BUDGETED else None)
        group = groups.setdefault(key, [])
        # What does not depend on m may have been trained beside several: each seed counts once.
        if record.seed not in [other.seed for other in group]:
            group.append(record)
    return [Row(looking, budget, tuple(group)) for (looking, budget), group in groups.items()]


def gains(row: Row, rows: Sequence[Row]) -> list[float]:
    """Return the accuracies less those of random glimpses at the same m and seed, for the seeds that have both; empty
    for random glimpses and for what has no m.
    """
    if row.budget is None or row.looking == "random":
        return []
    control = {
        record.seed: record.measured["accuracy"]
        for other in rows
        if other.looking == "random" and other.budget == row.budget
        for record in other.records
    }
    return [record.measured["accuracy"] - control[record.seed] for record in row.records if record.seed in control]


def lead(row: Row, rows: Sequence[Row]) -> tuple[float, float] | None:
    """Return by how much REINFORCE is more accurate than a model beside it, and half the 95 % interval over videos.

    Both have played the same videos with the same seeds, so each video's difference is taken, averaged over the seeds
    of the model. None for REINFORCE itself, and where it lacks one of these seeds at `beside(row)` glimpses.
    """
    learned = {
        record.seed: record.measured["correct"]
        for other in rows
        if other.looking == "learned" and other.budget == beside(row)
        for record in other.records
    }
    if row.looking == "learned" or not learned.keys() >= {record.seed for record in row.records}:
        return None
    differences = [np.subtract(learned[record.seed], record.measured["correct"], dtype=float) for record in row.records]
    return mean_and_interval(np.mean(differences, axis=0).tolist())


def beside(row: Row) -> int:
    """Return the number of glimpses at which REINFORCE is compared with a model: its own, or where it does not depend
    on m, the one beside which it was trained for its first seed.
    """
    return row.records[0].budget if row.budget is None else row.budget


@dataclass(frozen=True)
class Reported:
    """A figure that others published."""

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
        raise FileNotFoundError(f"no figures to report at {path}: it is a CSV file of model, measure, value and source")
    figures = []
    with path.open(newline="") as file:
        for number, line in enumerate(csv.DictReader(file), 2):
            try:
                figure = Reported(line["model"], line["measure"], float(line["value"]), line["source"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: needs model, measure, value and source ({error})") from error
            if figure.measure not in SHOWN:
                raise ValueError(f"{path}, line {number}: measure must be one of {SHOWN}, got {figure.measure!r}")
            figures.append(figure)
    return figures


def markdown(records: Sequence[Record], reported: Sequence[Reported] = ()) -> str:
    """Return the comparison as a Markdown table, a model at a budget each row, published figures last."""
    rows = rows_of(records)
    published = {figure.measure for figure in reported}
    shown = [name for name in SHOWN if name in published or any(row.values(name) for row in rows)]
    head = [
        "model",
        "m",
        "seeds",
        "accuracy",
        "minus random",
        "REINFORCE minus it",
        *(MEASURES[name] for name in shown if name != "accuracy"),
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [TITLES[row.looking], "-" if row.budget is None else str(row.budget), str(len(row.records))]
        cells += [_shown(row.values("accuracy")), _shown(gains(row, rows), signed=True)]
        led = lead(row, rows)
        cells.append("-" if led is None else f"{led[0]:+.3f} ± {led[1]:.3f} (m = {beside(row)})")
        cells += [_shown(row.values(name)) for name in shown if name != "accuracy"]
        lines.append("| " + " | ".join(cells) + " |")
    for model, source in dict.fromkeys((figure.model, figure.source) for figure in reported):
        known = {
            figure.measure: f"{figure.value:g}"
            for figure in reported
            if (figure.model, figure.source) == (model, source)
        }
        cells = [f"{model} (reported by {source})", "-", "-", known.get("accuracy", "-"), "-", "-"]
        cells += [known.get(name, "-") for name in shown if name != "accuracy"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(values: Sequence[float], *, signed: bool = False) -> str:
    if not values:
        return "-"
    mean, half = mean_and_interval(values)
    return f"{mean:{'+' if signed else ''}.3f}" + (f" ± {half:.3f}" if len(values) > 1 else "")


def comma_separated(records: Sequence[Record]) -> str:
    """Return the records as CSV, one arm of one run a line."""
    buffer = io.StringIO()
    names = ["model", "m", "seed", *MEASURES, "validation_accuracy", "train_seconds", "git_commit"]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for row in rows_of(records):
        for record in row.records:
            known = record.measured | {"model": row.looking, "m": record.budget, "seed": record.seed}
            writer.writerow([known.get(name) for name in names])
    return buffer.getvalue()


def page(records: Sequence[Record], reported: Sequence[Reported] = ()) -> str:
    """Return what table.md holds: the table, and what it takes to make it again."""
    commits = sorted({str(record.measured["git_commit"]) for record in records})
    machines = sorted({f"{record.run['machine']}, {record.run['threads']} threads" for record in records})
    config = Config.from_json(records[0].run["config"])
    said = [
        f"Source `{config.source}`, fold {config.fold}, preset {config.preset}, reward {config.reward}, "
        f"{config.updates} updates of {config.clips} clips x {config.rollouts} rollouts; "
        f"{len(records[0].measured['correct'])} test videos.",
        f"Code {', '.join(commits)}; {'; '.join(machines)}.",
        *_tuned(records),
        "Means over seeds with 95 % intervals; checkpoints chosen by validation. REINFORCE minus a model: of each test "
        "video the mean over seeds, with the interval over videos, which is too narrow where several were cut from one "
        "film. Soft attention reads every slice to score it, its m likeliest cells too, and begins from the mean of "
        "all frames, so it has seen the whole clip at frame 1. Costs of looks are taken off the reward of those alone "
        "who choose what to see.",
    ]
    return markdown(records, reported) + "\n\n" + "\n".join(said) + "\n"


def _tuned(records: Sequence[Record]) -> list[str]:
    """Say which models were trained with settings of their own, and which were not where some were."""
    own = {
        record.looking: Config.from_json(record.run["config"]).arm_settings.get(record.looking) for record in records
    }
    lines = [f"Tuned for itself: {TITLES[arm]}: {spelled(settings)}." for arm, settings in own.items() if settings]
    rest = [TITLES[arm] for arm, settings in own.items() if not settings]
    return [*lines, f"Not tuned for itself: {'; '.join(rest)}."] if lines and rest else lines


def write_comparison(out: Path, reported: Sequence[Reported] = ()) -> str:
    """Write tables and figures from the records of a comparison, and return the table."""
    records = read_records(out)
    rows = rows_of(records)
    for name, text in (("table.md", page(records, reported)), ("table.csv", comma_separated(records))):
        with told_failures(out / name):
            write_atomically(out / name, text.encode())
    curves = list(_budget_curves(rows))
    if any(len(points) > 1 for _, points in curves):
        save_figure(out / "accuracy_by_glimpses.png", budget_figure(curves, _levels(rows)))
    anytime: list[tuple[str, list[list[float]]]] = []
    for row in rows:
        seeds = [record.measured.get("accuracy_by_frames", []) for record in row.records]
        if all(seeds):
            anytime.append((name_of(row) + (", knowing the clip's mean" if row.looking in SOFT else ""), seeds))
    if anytime:
        save_figure(out / "accuracy_by_frames.png", anytime_figure(anytime))
    macs = count_macs(out, rows)
    spent = [
        (name_of(row), macs[name_of(row)], *mean_and_interval(row.values("accuracy")))
        for row in rows
        if name_of(row) in macs
    ]
    if spent:
        save_figure(out / "accuracy_by_compute.png", compute_figure(spent))
    return page(records, reported)


def count_macs(out: Path, rows: Sequence[Row]) -> dict[str, float]:
    """Return MACs per clip of each row's policy, the CNN's left out, by `name_of`; counted once and kept in macs.json.

    Rows are left out where their source cannot be opened any more.
    """
    path = out / "macs.json"
    known: dict[str, float] = read_json(path) if path.exists() else {}
    for row in rows:
        if name_of(row) in known:
            continue
        config = dataclasses.replace(Config.from_json(row.records[0].run["config"]), device="cpu")
        try:
            source = open_splits(config)["test"]
        except (FileNotFoundError, ValueError):
            continue
        envs = make_envs(config, source, min(4, source.num_clips), train=False, looking=row.looking)
        policy = make_policy(config, source, row.looking)  # costs do not depend on weights
        if row.looking == "unlimited":  # but for how many cells it looks at
            policy.load_state_dict(Checkpoints(arm_folder(row.records[0].folder, row.looking)).load_best())
        known[name_of(row)] = macs_per_clip(envs, policy.eval(), greedy_manner(config, row.looking)).policy
        write_json(path, known)
    return known


def name_of(row: Row) -> str:
    """Return how a row is called in figures and in macs.json."""
    return TITLES[row.looking] + ("" if row.budget is None else f" (m = {row.budget})")


def _budget_curves(rows: Sequence[Row]) -> Iterator[tuple[str, list[tuple[int, float, float]]]]:
    """Yield each model that depends on m with its points: m, mean accuracy, half the interval."""
    for looking in BUDGETED:
        points = [
            (row.budget, *mean_and_interval(row.values("accuracy")))
            for row in rows
            if row.looking == looking and row.budget is not None
        ]
        if points:
            yield TITLES[looking], points


def _levels(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """Return the mean accuracy of each model that does not depend on m."""
    return [(TITLES[row.looking], mean_and_interval(row.values("accuracy"))[0]) for row in rows if row.budget is None]


def main(arguments: Arguments) -> None:
    """Train what is missing, then write and print the comparison."""
    reported = [] if arguments.reported is None else read_reported(arguments.reported)
    if not arguments.only_table:
        runs = arguments.runs()
        for number, (folder, config) in enumerate(tqdm(runs, desc="runs", disable=None), 1):
            print(f"run {number} of {len(runs)}: {folder}, {', '.join(config.arms)}", flush=True)
            train(config, folder)
    print(write_comparison(arguments.out, reported))
    print(f"wrote {arguments.out}/table.md, table.csv and figures")


if __name__ == "__main__":
    try:
        main(parse_as(Arguments))
    except StoppedError as stopped:
        print(f"{stopped}: give the same command again to go on", file=sys.stderr)
        sys.exit(128 + stopped.signum)
    except (ValueError, FileNotFoundError, FloatingPointError, SaveError, VideoError, DeviceError) as error:
        sys.exit(f"error: {error}")
