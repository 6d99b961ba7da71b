"""Train models alike and compare them, at equal numbers of glimpses.

    python -m agents.compare --source STORE --seeds 1 2 3 --budgets 1 5 --models reinforce random soft mean --out OUT
    python -m agents.compare --out OUT --only-table --reported FILE    # from finished runs, with published figures
    python -m agents.compare --runs RUN RUN RUN                        # a table of any finished runs

Other flags are those of agents/reinforce.py. A model that does not depend on m (soft, soft_hidden, mean, max, all,
unlimited) is trained at the first budget only. Runs are ordinary ones, in OUT/m<m>/seed<seed>/<model>, with --folds in
OUT/fold<fold>/m<m>/seed<seed>/<model>. Finished ones are not trained again, stopped ones resume, and models, seeds,
budgets and folds can be added later.

OUT gets table.md, its numbers as summary.csv, the numbers of every run as table.csv, and figures. --reported adds
published figures, marked as such, from a CSV file with the columns model, measure (as in summary.csv), value and
source.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from glimpse_env.catalogue import EMBEDDED
from glimpse_env.video.backbones import Backbone

from .cost.macs import ClipMacs, macs_of_policy, network_macs, network_of
from .learning.models import MODELS, ModelName, is_own
from .playing.envs import make_policy, open_splits
from .reinforce import train
from .runs.command import CommandLine, parse_command, run_command
from .runs.files import read_json, write_file, write_json
from .runs.folder import RunRecord, find_runs
from .runs.jobs import Job, read_tuned, train_all
from .tables.comparison import Reported, comparison_table, page, read_reported, runs_table, summary, warnings_on
from .tables.grid import SeededOutput
from .tables.layout import comma_separated
from .tables.plots import comparison_figures, png
from .tables.records import Record, Row, check_alike, read_records, rows_of

COMPARED: tuple[ModelName, ...] = ("reinforce", "random", "soft", "soft_hidden", "gumbel", "mean", "max")


@dataclass(frozen=True, kw_only=True)
class Output(SeededOutput):
    """Train models alike, for several seeds and numbers of glimpses, and compare them."""

    out: Path = Path("runs/comparison")
    """Folder of the runs, the table and the figures; finished runs in it are kept."""
    budgets: tuple[int, ...] = ()
    """Numbers m of glimpses per frame; --glimpses alone by default."""
    folds: tuple[int, ...] = ()
    """Official splits; the table shows the means over them. --fold alone by default."""
    all: bool = False
    """Print all columns; by default model, glimpses, accuracy, minus random and clips, for untrimmed clips also the
    measures of events."""
    latex: bool = False
    """Print the table as LaTeX (booktabs)."""
    runs: tuple[Path, ...] = ()
    """Finished runs, or folders of runs; print their table, and train and write nothing."""
    reported: Path | None = None
    """CSV of published figures: model, measure, value, source."""
    tuned: Path | None = None
    """settings.json of videoglimpse tune, with the settings that each model learns best with."""


def jobs_of(line: CommandLine[Output]) -> list[Job]:
    """Return a job for every model, number of glimpses, seed and fold."""
    output, jobs = line.output, []
    tuned = read_tuned(output.tuned, line.models)
    budgets = output.budgets or (line.task.glimpses,)
    for fold in output.folds or (line.task.fold,):
        root = output.out / f"fold{fold}" if output.folds else output.out
        for budget in budgets:
            for seed in output.seeds:
                for model in line.models:
                    if MODELS[model].has_budget or budget == budgets[0]:
                        settings = {"model": model, "glimpses": budget, "seed": seed, "fold": fold}
                        config = line.config.with_settings(settings | dict(tuned.get(model, {})))
                        jobs.append(Job(config, root / f"m{budget}" / f"seed{seed}" / model))
    return jobs


def check_planned(out: Path, planned: Sequence[tuple[Path, RunRecord]]) -> None:
    """Check that planned runs fit into one table with the finished runs of a folder.

    Raises:
        ValueError: they differ in more than model, glimpses, seed and fold.
    """
    paths = {path for path, _ in planned}
    known = find_runs(out) if any(out.rglob("config.json")) else []
    others = [(run.path, run.record()) for run in known if run.has_result and run.path not in paths]
    try:
        check_alike([*others, *planned])
    except ValueError as error:
        raise ValueError(f"{error}, or choose another --out") from error


def write_comparison(out: Path, reported: Sequence[Reported] = ()) -> list[Record]:
    """Write the table and the figures of the finished runs in a folder, and return their records.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they differ in more than model, glimpses, seed and fold.
    """
    records = read_records(find_runs(out))
    rows = rows_of(records)
    write_file(out / "table.md", page(records, reported))
    write_file(out / "summary.csv", summary(rows, reported))
    write_file(out / "table.csv", comma_separated(*runs_table([record for row in rows for record in row.records])))
    for name, (_, figure) in comparison_figures(rows, count_macs(out, rows)).items():
        write_file(out / f"{name}.png", png(figure))
    return records


def count_macs(out: Path, rows: Sequence[Row]) -> dict[str, ClipMacs]:
    """Return the MACs of each row for one clip, by the row's name; kept in costs.json.

    Rows are left out if their source cannot be opened any more. They are counted again if their runs are others than
    before, or if they are without a network: its weights may be there now.
    """
    path = out / "costs.json"
    content = read_json(path) if path.exists() else {}
    costs: dict[str, ClipMacs] = {}
    networks: dict[str, Backbone | None] = {}
    for row in rows:
        old, runs = content.pop(row.name, {}), _fingerprint(row)
        cost = known = ClipMacs(old["policy"], old["network"]) if old.get("runs") == runs else None
        is_made = row.records[0].record.config.task.source not in EMBEDDED  # by a network
        if known is None or (known.network is None and is_made):
            cost = _macs_of(row, networks) or known
        if cost is not None:
            costs[row.name] = cost
            content[row.name] = cost._asdict() | {"runs": runs}
            if cost != known:
                write_json(path, content)
    return costs


def _fingerprint(row: Row) -> str:
    """Return what the costs of a row depend on, as a sha256."""
    first = row.records[0].record
    facts: list[Any] = [first.config.with_settings({"seed": 1, "device": "cpu"}).to_json(), first.source.identity]
    facts += [[record.seed, record.fold, record.result.best_update] for record in row.records if _adapts(row)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _adapts(row: Row) -> bool:
    """Whether the trained policy decides how many cells or frames it sees."""
    return row.model.sees == "set" or row.records[0].record.config.learns_jumps


def _macs_of(row: Row, networks: dict[str, Backbone | None]) -> ClipMacs | None:
    """Return the mean MACs of the runs of a row; runs of most models cost the same, whatever they have learned."""
    adapts = _adapts(row)
    costs = [_macs_of_run(record, adapts, networks) for record in (row.records if adapts else row.records[:1])]
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return None
    of_network = [cost.network for cost in known if cost.network is not None]
    network = float(np.mean(of_network)) if len(of_network) == len(known) else None
    return ClipMacs(float(np.mean([cost.policy for cost in known])), network)


def _macs_of_run(record: Record, adapts: bool, networks: dict[str, Backbone | None]) -> ClipMacs | None:
    """Return the mean MACs of one run; if it adapts the number of cells or frames, over many clips."""
    if is_own(record.model.name):
        return None
    config = record.record.config.with_settings({"device": "cpu"})
    try:
        source = open_splits(config)["test"]
    except (FileNotFoundError, ValueError) as error:
        print(f"{record.run.path} is left out of the figure of GMACs: {error}", file=sys.stderr)
        return None
    policy = record.run.best_policy(config, source) if adapts else make_policy(config, source)
    varies = adapts or len(config.task.advanced.jumps or ()) > 1  # from clip to clip
    macs = macs_of_policy(config, source, policy, clips=min(64 if varies else 4, source.num_clips))
    name = config.task.source
    if name not in networks:
        networks[name] = None
        try:
            networks[name] = network_of(config, source)
        except ValueError as error:
            print(f"GMACs are without the network of {name}: {error}", file=sys.stderr)
    backbone, frames = networks[name], record.test.frames_observed or policy.shape.frames
    return ClipMacs(macs.policy, None if backbone is None else network_macs(macs, source, backbone, frames=frames))


def parse_arguments(arguments: Sequence[str] | None = None) -> CommandLine[Output]:
    """Read the command line."""
    return parse_command(Output, arguments, models=COMPARED, program="videoglimpse compare")


def main() -> None:
    """Train the missing runs, then write and print the comparison."""
    line = parse_arguments()
    output = line.output
    reported = [] if output.reported is None else read_reported(output.reported)
    if output.runs:
        records = read_records(run for path in output.runs for run in find_runs(path))
    else:
        if not output.only_table:
            train_all(jobs_of(line), train, check=partial(check_planned, output.out))
        records = write_comparison(output.out, reported)
    if output.latex:
        rows = rows_of(records)
        print(comparison_table(rows, reported, all_columns=output.all).latex())
        print("\n".join(warnings_on(records, rows)), file=sys.stderr)
    else:
        print(page(records, reported, all_columns=output.all))
    if not output.runs:
        print(f"Wrote {output.out}/table.md, summary.csv, table.csv and figures", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
