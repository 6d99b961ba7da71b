"""Train every model alike and put what they came to side by side, at equal numbers of glimpses.

    python -m agents.compare --source STORE --seeds 1 2 3 --budgets 1 5 --models random soft gumbel mean --out OUT
    python -m agents.compare --source STORE --budgets 1 2 3 5 8 16 49 --models random gumbel soft --out OUT
    python -m agents.compare --out OUT --only-table --reported FILE    # from the records alone, beside others' figures

Other flags are those of agents/reinforce.py. "learned", REINFORCE with m glimpses, is always there; what does not
depend on m (`soft`, `soft_hidden`, `mean`, `max`, `all`, `unlimited`) is trained at the first budget alone. Runs are
ordinary ones, OUT/m<m>/seed<seed>, which agents.report and --evaluate take: what is finished is not trained again, what
was stopped goes on, and models, seeds and budgets can be added later.

From these records come table.md, its numbers as summary.csv, table.csv with the numbers of every seed, and the figures.
Intervals are Student's 95 % over seeds; differences to random glimpses are paired by seed at the same m, those to
REINFORCE by test video, with the interval over films.
Checkpoints were chosen by validation; figures are of the test split.
Figures that others published stand below, marked as reported: a CSV file with the columns model, measure (one of
table.md's, by its name in table.csv), value and source.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from glimpse_env.files import write_atomically

from .cost.macs import macs_per_clip
from .learning.config import Config, Control
from .playing.envs import greedy_manner, make_envs, make_policy, open_splits
from .playing.rollout import SOFT
from .reinforce import train
from .runs.command import run_command
from .runs.folder import Checkpoints, read_json, told_failures, write_json
from .runs.results import arm_folder
from .tables.comparison import Reported, comma_separated, page, read_reported, summary
from .tables.plots import anytime_figure, budget_figure, compute_figure, save_figure
from .tables.records import BUDGETED, TITLES, Row, name_of, read_records, rows_of
from .tables.statistics import mean_and_interval


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
        missing = [arm for arm in ("learned", *self.models) if arm not in own.arm_settings]
        if self.tuned is not None and missing:
            raise ValueError(
                f"{self.tuned} has no settings for {', '.join(missing)}: tune these too, leave them out of --models, "
                "or give them {} there, which is the base"
            )
        budgets = self.budgets or (self.glimpses,)
        asked = []
        for budget in budgets:
            models = self.models if budget == budgets[0] else tuple(set(self.models) & set(BUDGETED))
            controls = tuple(model for model in self.models if model in models)
            for seed in self.seeds:
                settings = {arm: own.arm_settings[arm] for arm in ("learned", *controls) if arm in own.arm_settings}
                config = dataclasses.replace(own, glimpses=budget, seed=seed, controls=controls, arm_settings=settings)
                asked.append((self.out / f"m{budget}" / f"seed{seed}", config))
        return asked


def write_comparison(out: Path, reported: Sequence[Reported] = ()) -> str:
    """Write tables and figures from the records of a comparison, and return the table."""
    records = read_records(out)
    rows = rows_of(records)
    texts = {
        "table.md": page(records, reported),
        "summary.csv": summary(records, reported),
        "table.csv": comma_separated(records),
    }
    for name, text in texts.items():
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
    print(f"wrote {arguments.out}/table.md, summary.csv, table.csv and figures")


if __name__ == "__main__":
    run_command(main, Arguments)
