"""Train models alike and compare them, at equal numbers of glimpses.

    python -m agents.compare --source STORE --seeds 1 2 3 --budgets 1 5 --models reinforce random soft mean --out OUT
    python -m agents.compare --out OUT --only-table --reported FILE    # from finished runs, with published figures
    python -m agents.compare --runs RUN RUN RUN                        # a table of any finished runs

Other flags are those of agents/reinforce.py. A model that does not depend on m (soft, soft_hidden, mean, max, all,
unlimited) is trained at the first budget only. Runs are ordinary ones, in OUT/m<m>/seed<seed>/<model>. Finished ones
are not trained again, stopped ones resume, and models, seeds and budgets can be added later.

OUT gets table.md, its numbers as summary.csv, the numbers of every run as table.csv, and figures. --reported adds
published figures, marked as such, from a CSV file with the columns model, measure (as in table.csv), value and source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cost.macs import macs_per_clip
from .learning.models import MODELS, ModelName
from .playing.envs import greedy_play, make_envs, make_policy, open_splits
from .reinforce import train
from .runs.command import CommandLine, parse_command, run_command
from .runs.files import read_json, write_file, write_json
from .runs.folder import RunFolder, find_runs
from .runs.jobs import Job, read_tuned, train_all
from .tables.comparison import Reported, page, read_reported, records_as_csv, summary
from .tables.intervals import mean_interval
from .tables.plots import anytime_figure, budget_figure, compute_figure, save_figure
from .tables.records import Record, Row, read_records, rows_of

COMPARED: tuple[ModelName, ...] = ("reinforce", "random", "soft", "soft_hidden", "gumbel", "mean", "max")


@dataclass(frozen=True, kw_only=True)
class Output:
    """Train models alike, for several seeds and numbers of glimpses, and compare them."""

    out: Path = Path("runs/comparison")
    """Folder of the runs, the table and the figures; finished runs in it are kept."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds; every model is trained once for each, and --seed has no effect."""
    budgets: tuple[int, ...] = ()
    """Numbers m of glimpses per frame; --glimpses alone by default."""
    only_table: bool = False
    """Train nothing, and write the table and figures of the finished runs in --out."""
    runs: tuple[Path, ...] = ()
    """Finished runs, or folders of runs; print their table, and train and write nothing."""
    reported: Path | None = None
    """CSV of published figures: model, measure, value, source."""
    tuned: Path | None = None
    """settings.json of agents.tune, with the settings that each model learns best with."""

    def __post_init__(self) -> None:
        for name in ("seeds", "budgets"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"--{name} must be different numbers, got {' '.join(map(str, values))}")
        if not self.seeds:
            raise ValueError("--seeds names no seed: give at least one")


def jobs_of(line: CommandLine[Output]) -> list[Job]:
    """Return a job for every model, number of glimpses and seed."""
    output, jobs = line.output, []
    tuned = read_tuned(output.tuned, line.models)
    budgets = output.budgets or (line.task.glimpses,)
    for budget in budgets:
        for seed in output.seeds:
            for model in line.models:
                if MODELS[model].has_budget or budget == budgets[0]:
                    settings = {"model": model, "glimpses": budget, "seed": seed} | dict(tuned.get(model, {}))
                    folder = output.out / f"m{budget}" / f"seed{seed}" / model
                    jobs.append(Job(line.config.with_settings(settings), folder))
    return jobs


def write_comparison(out: Path, reported: Sequence[Reported] = ()) -> str:
    """Write the table and the figures of the finished runs in a folder, and return the table.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they differ in more than model, glimpses and seed.
    """
    runs = [RunFolder(path.parent) for path in sorted(out.glob("m*/seed*/*/config.json"))]
    if not runs:
        raise FileNotFoundError(f"no runs in {out}: train them first, without --only-table")
    records = read_records(runs)
    rows = rows_of(records)
    write_file(out / "table.md", page(records, reported))
    write_file(out / "summary.csv", summary(records, reported))
    write_file(out / "table.csv", records_as_csv(records))
    curves = _curves(rows)
    if any(len(points) > 1 for _, points in curves):
        levels = [(row.model.title, mean_interval(row.values("accuracy")).mean) for row in rows if row.glimpses is None]
        save_figure(out / "accuracy_by_glimpses.png", budget_figure(curves, levels))
    by_frames = [
        (
            row.name + (", knowing the clip's mean" if row.model.is_soft else ""),
            [record.test.accuracy_by_frames for record in row.records],
        )
        for row in rows
    ]
    save_figure(out / "accuracy_by_frames.png", anytime_figure(by_frames))
    macs = count_macs(out, rows)
    spent = [(row, mean_interval(row.values("accuracy"))) for row in rows if row.name in macs]
    if spent:
        points = [(row.name, macs[row.name], accuracy.mean, accuracy.half) for row, accuracy in spent]
        save_figure(out / "accuracy_by_compute.png", compute_figure(points))
    return page(records, reported)


def _curves(rows: Sequence[Row]) -> list[tuple[str, list[tuple[int, float, float]]]]:
    """Return each model that depends on m with its points: m, mean accuracy, half the interval."""
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for row in rows:
        if row.glimpses is not None:
            accuracy = mean_interval(row.values("accuracy"))
            curves.setdefault(row.model.title, []).append((row.glimpses, accuracy.mean, accuracy.half))
    return list(curves.items())


def count_macs(out: Path, rows: Sequence[Row]) -> dict[str, float]:
    """Return MACs per clip of each row's policy without the CNN, by the row's name; kept in macs.json.

    Rows are left out if their source cannot be opened any more.
    """
    path = out / "macs.json"
    known: dict[str, float] = read_json(path) if path.exists() else {}
    for row in rows:
        if row.name not in known and (macs := _macs_of(row.records[0])) is not None:
            known[row.name] = macs
            write_json(path, known)
    return known


def _macs_of(record: Record) -> float | None:
    config = record.record.config.with_settings({"device": "cpu"})
    try:
        source = open_splits(config)["test"]
    except (FileNotFoundError, ValueError):
        return None
    envs = make_envs(config, source, min(4, source.num_clips), train=False)
    policy = make_policy(config, source)  # costs do not depend on weights ...
    if record.model.sees == "set":  # ... except for the number of cells looked at
        policy = record.run.best_policy(config, source)
    return macs_per_clip(envs, policy.eval(), greedy_play(config)).policy


def parse_arguments(arguments: Sequence[str] | None = None) -> CommandLine[Output]:
    """Read the command line."""
    return parse_command(Output, arguments, models=COMPARED, program="python -m agents.compare")


def main() -> None:
    """Train the missing runs, then write and print the comparison."""
    line = parse_arguments()
    output = line.output
    reported = [] if output.reported is None else read_reported(output.reported)
    if output.runs:
        print(page(read_records(run for path in output.runs for run in find_runs(path)), reported))
        return
    if not output.only_table:
        train_all(jobs_of(line), train)
    print(write_comparison(output.out, reported))
    print(f"Wrote {output.out}/table.md, summary.csv, table.csv and figures")


if __name__ == "__main__":
    run_command(main)
