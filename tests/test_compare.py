"""Comparisons: what is trained, what is gone on with, and the table that the records alone give."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest
from agent_toys import tiny_config, write_marked_store
from glimpse_agents.compare import Arguments, main, write_comparison
from glimpse_agents.learning.config import Config, parse_as
from glimpse_agents.reinforce import train
from glimpse_agents.runs.folder import provenance, read_json, write_json
from glimpse_agents.runs.results import arms_on_disk
from glimpse_agents.tables.comparison import markdown, page, read_reported, summary
from glimpse_agents.tables.records import Record, gains, lead, read_records, rows_of
from glimpse_agents.tables.statistics import mean_and_interval

MODELS = ("random", "soft", "gumbel", "mean")


def arguments(store, out, **changes):
    own = {field.name: getattr(tiny_config(), field.name) for field in dataclasses.fields(Config)}
    settings = {"source": store, "out": out, "seeds": (1, 2), "budgets": (2, 1), "models": MODELS}
    return Arguments(**(own | settings | changes))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_marked_store(tmp_path_factory.mktemp("store") / "marked"))


@pytest.fixture(scope="module")
def compared(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison")
    main(arguments(store, out))
    return out


def record(looking, budget, seed, accuracy, **measured):
    return Record(
        looking,
        budget,
        seed,
        {"accuracy": accuracy, "correct": [accuracy > 0.75, False], "films": [0, 1]} | measured,
        {"git_commit": "c"},
        Path("nowhere"),
    )


# ---- training


def test_models_that_need_no_budget_are_trained_once(compared):
    assert sorted(arms_on_disk(compared / "m2" / "seed1")) == sorted(["learned", *MODELS])
    assert arms_on_disk(compared / "m1" / "seed2") == ["learned", "gumbel", "random"]
    files = {path.name for path in compared.iterdir()}
    figures = {f"accuracy_by_{name}.png" for name in ("glimpses", "frames", "compute")}
    assert files == {"m1", "m2", "table.md", "summary.csv", "table.csv", "macs.json", *figures}


def test_what_is_finished_is_not_trained_again_and_models_can_be_added(store, compared):
    kept = (compared / "m1" / "seed1" / "best.safetensors").stat().st_mtime_ns
    main(arguments(store, compared, models=("centre",)))
    assert (compared / "m1" / "seed1" / "best.safetensors").stat().st_mtime_ns == kept
    assert "centre" in arms_on_disk(compared / "m1" / "seed1")
    assert "random" in read_json(compared / "m1" / "seed1" / "config.json")["config"]["controls"]
    assert "| centre, m cells | 1 | 2 |" in (compared / "table.md").read_text()
    assert set(read_json(compared / "m2" / "seed1" / "result.json")["accuracy"]) == {"learned", "centre", *MODELS}


def test_the_records_alone_make_the_table(compared):
    table = (compared / "table.md").read_text()
    (compared / "table.md").unlink()
    assert write_comparison(compared) == table == (compared / "table.md").read_text()
    measured = read_json(compared / "m2" / "seed1" / "controls" / "soft" / "evaluation.json")["test"]
    with (compared / "table.csv").open() as file:
        (line,) = [row for row in csv.DictReader(file) if (row["model"], row["m"], row["seed"]) == ("soft", "2", "1")]
    assert float(line["accuracy"]) == measured["accuracy"]
    assert float(line["attention_on_actor"]) == measured["attention_on_actor"]
    assert (line["focus"], line["glimpses_per_frame"]) == ("", "9.0")


def test_compute_is_counted_once_for_each_model_and_budget(compared):
    macs = read_json(compared / "macs.json")
    assert macs["REINFORCE, m glimpses (m = 2)"] > macs["REINFORCE, m glimpses (m = 1)"] > 0
    assert macs["soft attention, content and state"] > macs["mean of all cells"]
    changed = dict.fromkeys(macs, 1.0)
    write_json(compared / "macs.json", changed)
    write_comparison(compared)
    assert read_json(compared / "macs.json") == changed
    write_json(compared / "macs.json", macs)


def test_the_command_line_takes_the_flags_of_training(store, tmp_path):
    words = ["--source", store, "--out", str(tmp_path), "--seeds", "4", "5", "--budgets", "1", "--models", "max"]
    parsed = parse_as(Arguments, [*words, "--updates", "700"])
    assert [(folder, config.seed, config.updates) for folder, config in parsed.runs()] == [
        (tmp_path / "m1" / "seed4", 4, 700),
        (tmp_path / "m1" / "seed5", 5, 700),
    ]
    assert all(config.controls == ("max",) and config.preset == "features" for _, config in parsed.runs())


# ---- the table


def test_gains_are_paired_by_seed_at_the_same_budget():
    records = [
        record("learned", 5, 1, 0.9), record("learned", 5, 2, 0.7), record("learned", 1, 1, 0.6),
        record("random", 5, 2, 0.6), record("random", 5, 1, 0.5), record("soft", 5, 1, 0.8),
    ]  # fmt: skip
    rows = rows_of(records)
    assert [(row.looking, row.budget) for row in rows] == [
        ("learned", 1), ("learned", 5), ("soft", None), ("random", 5),
    ]  # fmt: skip
    assert gains(rows[1], rows) == pytest.approx([0.4, 0.1])
    assert gains(rows[0], rows) == gains(rows[2], rows) == gains(rows[3], rows) == []
    mean, half = mean_and_interval([0.4, 0.1])
    lines = markdown(records).splitlines()
    assert f"| 0.800 ± {mean_and_interval([0.9, 0.7])[1]:.3f} | +{mean:.3f} ± {half:.3f} |" in lines[3]
    assert lines[4] == "| soft attention, content and state | - | 1 | 0.800 | - | +0.000 ± 0.000 (m = 5) |"


def test_what_reinforce_is_ahead_by_is_paired_by_video():
    films = [0, 1, 2, 3]
    records = [
        record("learned", 5, 1, 0.5, correct=[True, True, False, False], films=films),
        record("learned", 5, 2, 0.75, correct=[True, True, True, False], films=films),
        record("learned", 1, 1, 0.0, correct=[False] * 4, films=films),
        record("soft", 5, 1, 0.25, correct=[False, True, False, False], films=films),
        record("soft", 5, 2, 0.5, correct=[False, True, False, True], films=films),
        record("random", 1, 3, 0.5, correct=[True, True, False, False], films=films),
        record("random", 5, 2, 0.25, correct=[False, False, False, True], films=films),
        record("mean", 1, 1, 0.5, correct=[True, False, True, False], films=films),
        record("mean", 5, 2, 0.5, correct=[True, False, True, False], films=films),
    ]
    rows = rows_of(records)
    assert [row.looking for row in rows] == ["learned", "learned", "soft", "random", "random", "mean"]
    mean, half = mean_and_interval([1.0, 0.0, 0.5, -0.5])  # of seeds 1 and 2
    assert lead(rows[2], rows) == pytest.approx((mean, half))
    assert lead(rows[0], rows) is lead(rows[3], rows) is None  # of itself, and without a seed in common
    assert lead(rows[4], rows) == pytest.approx(mean_and_interval([1.0, 1.0, 1.0, -1.0]))
    assert lead(rows[5], rows) is None  # at one glimpse there is no second seed
    assert f"| {mean:+.3f} ± {half:.3f} (m = 5) |" in markdown(records).splitlines()[4]


def test_videos_of_one_film_count_together():
    """Three videos of one film that all gain do not tell more than that one film does."""
    films = [1, 1, 1, 0, 0, 0]
    records = [
        record("learned", 5, 1, 0.5, correct=[True, True, True, False, False, False], films=films),
        record("mean", 5, 1, 0.0, correct=[False] * 6, films=films),
    ]
    rows = rows_of(records)
    # sums of the deviations from 0.5 are 1.5 and -1.5: sqrt(2 / 1 * 4.5) / 6 = 0.5, and t(0.975, 1) = 12.7062
    assert lead(rows[1], rows) == pytest.approx((0.5, 0.5 * 12.7062), rel=1e-5)


def test_what_needs_no_budget_counts_once_for_each_seed():
    (row,) = rows_of([record("mean", budget, seed, 0.3 + 0.2 * seed) for budget in (5, 1) for seed in (1, 2)])
    assert row.values("accuracy") == pytest.approx([0.5, 0.7])


def test_the_summary_holds_what_the_table_says(compared, tmp_path):
    (tmp_path / "paper.csv").write_text("model,measure,value,source\nsoft attention,accuracy,41.3,A et al.\n")
    records = read_records(compared)
    lines = list(csv.DictReader(io.StringIO(summary(records, read_reported(tmp_path / "paper.csv")))))
    assert lines[-1] == {
        "model": "soft attention", "m": "", "seeds": "", "measure": "accuracy", "mean": "41.3", "interval": "",
        "reported_by": "A et al.",
    }  # fmt: skip
    told = {(line["model"], line["m"], line["measure"]): line for line in lines}
    rows = rows_of(records)
    random = next(row for row in rows if (row.looking, row.budget) == ("random", 2))
    mean, half = mean_and_interval(random.values("accuracy"))
    shown = told["random", "2", "accuracy"]
    assert (float(shown["mean"]), float(shown["interval"]), shown["seeds"]) == pytest.approx((mean, half, "2"))
    led = lead(random, rows)
    shown = told["random", "2", "reinforce_minus_it"]
    assert (float(shown["mean"]), float(shown["interval"])) == pytest.approx(led)
    assert float(told["learned", "1", "accuracy_minus_random"]["mean"]) == pytest.approx(
        told_mean(told, "learned") - told_mean(told, "random")
    )
    assert ("random", "1", "accuracy_minus_random") not in told
    assert ("soft", "", "accuracy") in told
    assert ("soft", "2", "reinforce_minus_it") in told  # beside two glimpses


def told_mean(told, model):
    return float(told[model, "1", "accuracy"]["mean"])


def test_a_single_seed_has_no_interval_in_the_summary():
    (line,) = csv.DictReader(io.StringIO(summary([record("mean", 1, 1, 0.5)])))
    assert (line["m"], line["mean"], line["interval"]) == ("", "0.5", "")


@pytest.mark.parametrize(
    ("films", "said"), [([3, 0, 3], "3 test videos of 2 films."), ([0, 1, 2], "3 test videos, each taken for a film")]
)
def test_how_many_films_the_videos_were_cut_from_is_told(compared, films, said):
    records = [
        dataclasses.replace(entry, measured=entry.measured | {"films": films}) for entry in read_records(compared)
    ]
    for entry in records:
        entry.measured["correct"] = [True, False, True]
    assert said in page(records)


def test_a_measure_that_some_seeds_lack_is_not_averaged():
    records = [
        record("learned", 5, 1, 0.9, reward=1.0),
        record("learned", 5, 2, 0.7),
        record("mean", 5, 1, 0.5, reward=2),
    ]
    lines = markdown(records).splitlines()
    assert lines[0].endswith("| reward |")
    assert lines[2].endswith("| - |")
    assert lines[3].endswith("| 2.000 |")


def test_published_figures_stand_below_and_are_marked(tmp_path):
    (tmp_path / "paper.csv").write_text(
        "model,measure,value,source\nsoft attention,accuracy,41.3,A et al.\nsoft attention,top3,60,A et al.\n"
    )
    records = [record("learned", 5, 1, 0.9)]
    lines = markdown(records, read_reported(tmp_path / "paper.csv")).splitlines()
    assert lines[0].endswith("| minus random | REINFORCE minus it | top 3 |")
    assert lines[2:] == [
        "| REINFORCE, m glimpses | 5 | 1 | 0.900 | - | - | - |",
        "| soft attention (reported by A et al.) | - | - | 41.3 | - | - | 60 |",
    ]


# ---- errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,measure,value\nsoft,accuracy,1\n", r"line 2: needs model, measure, value and source \('source'\)"),
        ("model,measure,value,source\nsoft,accuracy,high,A\n", "line 2: needs .*could not convert string to float"),
        ("model,measure,value,source\nsoft,beauty,1,A\n", "line 2: measure must be one of .*, got 'beauty'"),
    ],
)
def test_figures_that_cannot_be_reported_are_named(tmp_path, text, message):
    (tmp_path / "paper.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_reported(tmp_path / "paper.csv")


def test_missing_figures_are_named_before_anything_is_trained(store, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no figures to report at .*nowhere.csv"):
        main(arguments(store, tmp_path / "out", reported=tmp_path / "nowhere.csv"))
    assert not (tmp_path / "out").exists()


def test_runs_that_differ_are_refused(store, tmp_path):
    for seed, updates in ((1, 6), (2, 4)):
        train(tiny_config(source=store, controls=(), seed=seed, updates=updates), tmp_path / "m2" / f"seed{seed}")
    with pytest.raises(ValueError, match=r"seed2/config.json differs from .*seed1/config.json in updates"):
        read_records(tmp_path)


def test_what_was_tested_before_films_were_told_is_tested_again(store, tmp_path, monkeypatch):
    folder = tmp_path / "m2" / "seed1"
    config = tiny_config(source=store, controls=())
    train(config, folder)
    tested = read_json(folder / "evaluation.json")
    without = tested | {"test": {name: value for name, value in tested["test"].items() if name != "films"}}
    write_json(folder / "evaluation.json", without)
    with pytest.raises(ValueError, match=r"1 files, .*evaluation.json the first, do not tell which film .*: remove"):
        read_records(tmp_path)
    (folder / "evaluation.json").unlink()
    monkeypatch.setattr("glimpse_agents.reinforce.provenance", lambda: provenance() | {"git_commit": "later"})
    train(config, folder)
    assert read_json(folder / "evaluation.json") == tested | {"tested_by": "later"}  # trained by what it was before


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no finished runs in .*: train them first, without --only-table"):
        write_comparison(tmp_path)


def test_an_unfinished_arm_is_left_out(store, tmp_path):
    folder = tmp_path / "m2" / "seed1"
    train(tiny_config(source=store, controls=("random",)), folder)
    evaluation = folder / "controls" / "random" / "evaluation.json"
    kept = json.loads(evaluation.read_text())
    evaluation.unlink()
    assert [entry.looking for entry in read_records(tmp_path)] == ["learned"]
    write_json(evaluation, kept)
    assert [entry.looking for entry in read_records(tmp_path)] == ["learned", "random"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (1, 1)}, r"--seeds must name different seeds, got \(1, 1\)"),
        ({"seeds": ()}, r"--seeds must name different seeds, got \(\)"),
        ({"controls": ("oracle",)}, "--controls oracle: what is compared is told by --models"),
        ({"budgets": (2, 0)}, r"--budgets must be different numbers of at least 1, got \(2, 0\)"),
    ],
)
def test_what_cannot_be_compared_is_named(store, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments(store, tmp_path, **changes)
