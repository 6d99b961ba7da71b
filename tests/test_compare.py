"""Comparisons: the runs that are trained or kept, and the table that their files give."""

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from agent_toys import tiny_config, write_marked_store
from finished_runs import SOURCE, evaluation, run_main, run_result, write_config, write_finished_run
from glimpse_agents import compare
from glimpse_agents.compare import Output, count_macs, jobs_of, parse_arguments, write_comparison
from glimpse_agents.cost.macs import ClipMacs
from glimpse_agents.learning.config import Config
from glimpse_agents.playing.envs import open_splits
from glimpse_agents.playing.evaluation import MEASURES
from glimpse_agents.reinforce import train
from glimpse_agents.runs.files import read_json, write_json
from glimpse_agents.runs.folder import RunFolder, RunRecord, find_runs
from glimpse_agents.tables.comparison import (
    Differences,
    comparison_table,
    page,
    read_reported,
    results_table,
    runs_table,
    summary,
    verdict,
)
from glimpse_agents.tables.intervals import crossed_interval, mean_interval
from glimpse_agents.tables.layout import Table, comma_separated, notes_on
from glimpse_agents.tables.plots import comparison_figures, learning_figure
from glimpse_agents.tables.records import Record, find_row, read_records, rows_of

MODELS = ("reinforce", "random", "soft", "gumbel", "mean")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_marked_store(tmp_path_factory.mktemp("store") / "marked"))


@pytest.fixture(scope="module")
def base(store, tmp_path_factory):
    """Return the flags of a comparison that trains in seconds."""
    config = write_config(tmp_path_factory.mktemp("base"), tiny_config(source=store))
    return "--config", config, "--seeds", 1, 2, "--budgets", 2, 1


@pytest.fixture(scope="module")
def compared(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison")
    run_main(compare, *base, "--out", out, "--models", *MODELS)
    return out


def record(model, glimpses, seed, correct=(True, False), films=None, fold=1, settings=None, **measures):
    """Return the record of a run that is not on disk."""
    run = {"model": model, "glimpses": glimpses, "seed": seed, "fold": fold}
    config = Config().with_settings(run | (settings or {}))
    facts = RunRecord(config=config, source=SOURCE, versions={}, machine="M", threads=1, git_commit="c")
    return Record(RunFolder(Path("nowhere")), facts, run_result(evaluation(correct, films, **measures)))


def right(*numbers, of=4):
    """Return whether each of some videos is right, given the numbers of those that are."""
    return [video in numbers for video in range(of)]


def table_of(records, reported=(), **options):
    """Return the lines of the Markdown table of some records, without the rule under the header."""
    header, _, *lines = comparison_table(rows_of(records), reported, **options).markdown().splitlines()
    return [header, *lines]


def records_in_rows(records):
    return [record for row in rows_of(records) for record in row.records]


def trained_models(path):
    return sorted(file.parent.name for file in path.glob("*/evaluation.json"))


def published(tmp_path, *lines):
    (tmp_path / "paper.csv").write_text("model,measure,value,source\n" + "".join(line + "\n" for line in lines))
    return tmp_path / "paper.csv"


# ---- training


def test_models_without_a_number_of_glimpses_are_trained_at_the_first_budget_only(compared):
    assert trained_models(compared / "m2" / "seed1") == sorted(MODELS)
    assert trained_models(compared / "m1" / "seed2") == ["gumbel", "random", "reinforce"]
    figures = {f"accuracy_by_{name}.png" for name in ("glimpses", "frames", "compute")}
    assert {path.name for path in compared.iterdir()} == {
        "m1", "m2", "table.md", "summary.csv", "table.csv", "costs.json", *figures,
    }  # fmt: skip
    configs = [RunFolder(compared / f"m{m}" / f"seed{s}" / "random").record().config for m in (1, 2) for s in (1, 2)]
    assert [(one.task.glimpses, one.training.seed) for one in configs] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_finished_runs_are_kept_and_models_can_be_added(base, compared):
    weights = {path: path.stat().st_mtime_ns for path in compared.rglob("best.safetensors")}
    run_main(compare, *base, "--out", compared, "--models", "centre")
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert trained_models(compared / "m1" / "seed1") == ["centre", "gumbel", "random", "reinforce"]
    table = (compared / "table.md").read_text()
    assert "| centre, m cells | 1 | " in table
    assert "| random, m cells | 1 | " in table


def test_the_files_of_runs_alone_make_the_table(compared):
    table = (compared / "table.md").read_text()
    (compared / "table.md").unlink()
    write_comparison(compared)
    assert (compared / "table.md").read_text() == table
    measured = RunFolder(compared / "m2" / "seed1" / "soft").finished().measured
    with (compared / "table.csv").open() as file:
        (line,) = [row for row in csv.DictReader(file) if (row["model"], row["m"], row["seed"]) == ("soft", "", "1")]
    assert float(line["accuracy"]) == measured.accuracy
    assert float(line["attention_on_actor"]) == measured.attention_on_actor
    assert (line["focus"], line["glimpses_per_frame"]) == ("", "9.0")


def test_only_table_trains_nothing(compared, capsys):
    runs = sorted(compared.rglob("evaluation.json"))
    run_main(compare, "--out", compared, "--only-table", "--source", "gone", "--models", "max")
    assert sorted(compared.rglob("evaluation.json")) == runs
    printed = capsys.readouterr().out
    assert "| model | glimpses | accuracy | minus random | clips |" in printed
    run_main(compare, "--out", compared, "--only-table", "--all")
    assert (compared / "table.md").read_text() in capsys.readouterr().out
    run_main(compare, "--out", compared, "--only-table", "--latex")
    printed = capsys.readouterr().out
    assert printed.startswith("\\begin{tabular}{lrrrr}\n\\toprule\nmodel & glimpses & accuracy & minus random & clips")
    assert printed.count("$\\pm$") >= 1


def test_any_finished_runs_make_a_table(compared, capsys):
    before = {path: path.stat().st_mtime_ns for path in compared.rglob("*")}
    run_main(compare, "--runs", compared / "m2" / "seed1" / "soft", compared / "m1" / "seed2")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| REINFORCE, m glimpses", "1"],
        ["| Gumbel straight-through, m glimpses", "1"],
        ["| soft attention, content and state", "-"],
        ["| random, m cells", "1"],
        *([["| centre, m cells", "1"]] if (compared / "m1" / "seed2" / "centre").exists() else []),
    ]
    assert {path: path.stat().st_mtime_ns for path in compared.rglob("*")} == before


def test_compute_is_counted_once_for_each_model_and_number_of_glimpses(compared):
    macs = read_json(compared / "costs.json")
    assert macs["REINFORCE, 2 glimpses"]["policy"] > macs["REINFORCE, 1 glimpse"]["policy"] > 0
    assert macs["soft attention, content and state"]["policy"] > macs["mean of all cells"]["policy"]
    assert {one["network"] for one in macs.values()} == {None}  # no network made the features
    changed = {name: one | {"policy": 1.0, "network": 2.0} for name, one in macs.items()}
    write_json(compared / "costs.json", changed)
    write_comparison(compared)
    assert read_json(compared / "costs.json") == changed
    of_others = {name: one | {"runs": "those of another configuration"} for name, one in changed.items()}
    write_json(compared / "costs.json", of_others)
    write_comparison(compared)
    assert read_json(compared / "costs.json") == macs


def test_compute_of_learned_numbers_of_looks_is_the_mean_over_all_runs(store, tmp_path):
    """One seed looks at nothing and the other at all cells: with each alone, the row would cost less or more."""
    runs = [tmp_path / "runs" / "m1" / f"seed{seed}" / "unlimited" for seed in (1, 2)]
    spent = []
    for path, bias in zip(runs, (-50.0, 50.0), strict=True):
        train(tiny_config(model="unlimited", source=store, updates=1, seed=int(path.parent.name[-1])), path)
        run = RunFolder(path)
        policy = run.best_policy(run.record().config, open_splits(run.record().config)["test"])
        policy.location_head.bias.data.fill_(bias)
        run.save_best(policy.state_dict())
        (alone,) = count_macs(path, rows_of(read_records([run]))).values()
        spent.append(alone.policy)
    (macs,) = count_macs(tmp_path, rows_of(read_records(find_runs(tmp_path / "runs")))).values()
    assert spent[0] < spent[1]
    assert macs.policy == pytest.approx(sum(spent) / 2)
    kept = {name: one | {"network": 1.0} for name, one in read_json(tmp_path / "costs.json").items()}
    write_json(tmp_path / "costs.json", kept)  # as if the network were known: it is not counted again
    (again,) = count_macs(tmp_path, rows_of(read_records(find_runs(tmp_path / "runs")))).values()
    assert again == macs._replace(network=1.0)
    (of_one,) = count_macs(tmp_path, rows_of(read_records([RunFolder(runs[0])]))).values()
    assert of_one.policy == spent[0]


@pytest.mark.parametrize(("network", "places", "label"), [
    (3e9, [3.25, 3.5], "GMACs per clip"), (None, [0.25, 0.5], "GMACs per clip, without the network"),
])  # fmt: skip
def test_results_are_drawn_over_the_multiply_adds_of_policy_and_network(network, places, label):
    events = {"mean_average_precision": 0.75, "detection_map": 0.25}
    for measures, value, name in (({}, 0.5, "accuracy"), (events, 0.75, "mAP")):
        rows = rows_of([record("reinforce", 1, 1, **measures), record("random", 1, 1, **measures)])
        macs = {row.name: ClipMacs(spent, network) for row, spent in zip(rows, (0.25e9, 0.5e9), strict=True)}
        caption, figure = comparison_figures(rows, macs)["accuracy_by_compute"]
        (axis,) = figure.axes
        assert [bars.lines[0].get_xdata().tolist() for bars in axis.containers] == [[place] for place in places]
        assert {float(bars.lines[0].get_ydata()[0]) for bars in axis.containers} == {value}
        assert (axis.get_xlabel(), axis.get_ylabel()) == (label, name)
        assert ("without" in caption) == (network is None)
    partly = {rows[0].name: ClipMacs(1e9, 1e9), rows[1].name: ClipMacs(1e9, None)}
    assert (
        comparison_figures(rows, partly)["accuracy_by_compute"][1].axes[0].get_xlabel().endswith("without the network")
    )


def test_an_agent_trained_elsewhere_is_drawn_over_its_glimpses():
    rows = rows_of([record("own:mine", glimpses, 1) for glimpses in (1, 3)])
    macs = {row.name: ClipMacs(1e9 * row.glimpses, None) for row in rows}
    figures = comparison_figures(rows, macs)
    assert [bars.lines[0].get_xdata().tolist() for bars in figures["accuracy_by_glimpses"][1].axes[0].containers] == [
        [1, 3]
    ]


def test_points_of_one_model_are_joined_and_named_by_their_glimpses():
    rows = rows_of([record("reinforce", glimpses, 1) for glimpses in (1, 3)] + [record("mean", 1, 1)])
    macs = {row.name: ClipMacs(spent, None) for row, spent in zip(rows, (1e9, 3e9, 5e9), strict=True)}
    (axis,) = comparison_figures(rows, macs)["accuracy_by_compute"][1].axes
    assert [bars.lines[0].get_xdata().tolist() for bars in axis.containers] == [[1.0, 3.0], [5.0]]
    assert [text.get_text() for text in axis.texts] == ["1", "3"]


def test_runs_whose_source_is_gone_are_compared_without_compute(tmp_path, capsys):
    config = Config().with_settings({"source": str(tmp_path / "gone")})
    write_finished_run(tmp_path / "m5" / "seed1" / "reinforce", config, run_result(evaluation([True, False])))
    write_comparison(tmp_path)
    assert {path.name for path in tmp_path.glob("*.*")} == {
        "table.md", "summary.csv", "table.csv", "accuracy_by_frames.png",
    }  # fmt: skip
    assert f"{tmp_path / 'm5/seed1/reinforce'} is left out of the figure of GMACs: " in capsys.readouterr().err


def test_the_command_line_takes_the_flags_of_training(store, tmp_path):
    words = ["--source", store, "--out", str(tmp_path), "--seeds", "4", "5", "--models", "max", "random"]
    line = parse_arguments([*words, "--updates", "700", "--seed", "9", "--glimpses", "3"])
    jobs = jobs_of(line)
    assert [job.path for job in jobs] == [tmp_path / "m3" / f"seed{s}" / name for s in (4, 5) for name in line.models]
    for job in jobs:
        settings = {"model": job.path.name, "seed": int(job.path.parent.name[-1]), "updates": 700, "glimpses": 3}
        assert job.config == line.config.with_settings(settings)
        assert job.config.preset == "attended"


# ---- the table


def test_accuracy_is_compared_with_random_at_the_same_number_of_glimpses():
    records = [
        record("reinforce", 5, 1, right(0, 1, 2)), record("reinforce", 5, 2, right(0, 1)),
        record("reinforce", 1, 1, right(3)), record("random", 5, 2, right(0)), record("random", 5, 3, right(3)),
        record("soft", 5, 1, right(0, 1, 2, 3)),
    ]  # fmt: skip
    rows = rows_of(records)
    assert [(row.model.name, row.glimpses) for row in rows] == [
        ("reinforce", 1), ("reinforce", 5), ("soft", None), ("random", 5),
    ]  # fmt: skip
    gains = [Differences.of(row, rows).minus_random for row in rows]
    assert gains[0] is gains[2] is gains[3] is None
    assert gains[1] == crossed_interval([right(0, 1, 2), right(0, 1)], range(4), [right(0), right(3)])
    assert gains[1].mean == 0.625 - 0.25
    half = mean_interval([0.75, 0.5]).half
    assert table_of(records)[2] == (
        f"| REINFORCE, m glimpses | 5 | 0.625 ± {half:.3f} | +0.375 ± {gains[1].half:.3f} | 4 |"
    )


def test_reinforce_is_compared_with_every_other_model():
    records = [
        record("reinforce", 5, 1, right(0, 1)), record("reinforce", 5, 2, right(0, 1, 2)),
        record("reinforce", 1, 1, right(3)), record("soft", 5, 1, right(1)), record("soft", 5, 2, right(1, 3)),
        record("random", 1, 3, right(0, 1)), record("random", 9, 2, right(3)),
    ]  # fmt: skip
    rows = rows_of(records)
    found = {(row.model.name, row.glimpses): Differences.of(row, rows) for row in rows}
    assert found["reinforce", 5].reinforce_minus_it is None
    assert found["random", 9].reinforce_minus_it is None  # there is no REINFORCE at 9 glimpses
    # The seeds of two models are independent samples, so that no seed in common is needed.
    assert found["random", 1].reinforce_minus_it == crossed_interval([right(3)], range(4), [right(0, 1)])
    soft = found["soft", None]
    assert soft.reference_glimpses == 1  # the smallest number
    assert soft.reinforce_minus_it == crossed_interval([right(3)], range(4), [right(1), right(1, 3)])
    assert soft.reinforce_minus_it.mean == pytest.approx(0.25 - 0.375)
    assert " | -0.125 ± " in (line := table_of(records, all_columns=True)[3])
    assert " (m = 1) |" in line


def test_videos_of_one_film_count_together_in_a_difference():
    films = [1, 1, 1, 0, 0, 0]
    rows = rows_of([record("reinforce", 5, 1, right(0, 1, 2, of=6), films), record("mean", 5, 1, right(of=6), films)])
    gain = Differences.of(rows[1], rows).reinforce_minus_it
    # The two films differ from the mean of 0.5 by 0.5: a standard error of 0.5, and t(0.975, 1) = 12.7062.
    assert (gain.mean, gain.half) == pytest.approx((0.5, 0.5 * 12.7062), rel=1e-5)


def test_differences_are_marked_counted_and_noted():
    films = range(40)
    records = [record("reinforce", 5, seed, [video != seed for video in films]) for seed in (1, 2, 3)]
    records += [record("random", 5, seed, [video == seed for video in films]) for seed in (1, 2, 3)]
    text = page(records)
    assert " * | 40 | 3 | - |" in text
    assert "This table makes 2 comparisons;" in text
    assert "Note on some differences" not in text
    text = page([*records, record("mean", 5, 1, [video % 2 == 0 for video in films])])
    assert "This table makes 3 comparisons;" in text
    assert "Note on some differences: a model has one seed: the interval does not cover its seeds." in text


def test_each_note_on_differences_stands_once():
    same = crossed_interval([[True, False, True]], range(3))
    equal = crossed_interval([[True, True, True]], range(3))
    notes = notes_on([same, equal])
    assert notes[0].endswith("This table makes 2 comparisons; at 5 % each, chance alone gives up to 0.1 false ones.")
    assert len(notes[1:]) == len(set(notes)) - 1 == 3  # equal values, few films and one seed


def test_a_run_without_a_number_of_glimpses_counts_once_for_each_seed():
    (row,) = rows_of([record("mean", glimpses, seed, right(*range(seed))) for glimpses in (5, 1) for seed in (1, 2)])
    assert row.values("accuracy") == [0.25, 0.5]


def test_the_summary_holds_the_numbers_of_the_table(compared, tmp_path):
    figures = read_reported(published(tmp_path, "soft attention,accuracy,41.3,A et al."))
    records = read_records(find_runs(compared))
    lines = list(csv.DictReader(io.StringIO(summary(rows_of(records), figures))))
    assert lines[-1] == {
        "model": "soft attention", "m": "", "seeds": "", "measure": "accuracy", "mean": "41.3", "interval": "",
        "note": "", "reported_by": "A et al.",
    }  # fmt: skip
    shown = {(line["model"], line["m"], line["measure"]): line for line in lines}
    rows = rows_of(records)
    random = find_row(rows, "random", 2)
    accuracy, gain = random.mean("accuracy"), Differences.of(random, rows).reinforce_minus_it
    assert_numbers(shown["random", "2", "accuracy"], accuracy)
    assert shown["random", "2", "accuracy"]["seeds"] == "2"
    assert_numbers(shown["random", "2", "reinforce_minus_it"], gain)
    means = {model: float(shown[model, "1", "accuracy"]["mean"]) for model in ("reinforce", "random")}
    difference = float(shown["reinforce", "1", "accuracy_minus_random"]["mean"])
    assert difference == pytest.approx(means["reinforce"] - means["random"])
    assert ("random", "1", "accuracy_minus_random") not in shown
    assert ("soft", "", "accuracy") in shown
    assert ("soft", "1", "reinforce_minus_it") in shown  # the m of REINFORCE
    assert ("soft", "2", "reinforce_minus_it") not in shown


def assert_numbers(line, interval):
    assert float(line["mean"]) == interval.mean
    assert (float(line["interval"]) if line["interval"] else np.inf) == interval.half
    assert line["note"] == interval.note


def test_a_single_seed_has_no_interval_in_the_summary():
    (line,) = [
        line
        for line in csv.DictReader(io.StringIO(summary(rows_of([record("mean", 1, 1)]))))
        if line["measure"] == "accuracy"
    ]
    assert (line["m"], line["mean"], line["interval"]) == ("", "0.5", "")
    assert line["note"] == "there is one value: the interval is unknown"


@pytest.mark.parametrize(
    ("films", "shown", "knows_films"),
    [([3, 0, 3], "3 test videos of 2 films;", True), ([0, 1, 2], "3 test videos of 3 films;", False)],
)
def test_the_page_shows_the_number_of_films(films, shown, knows_films):
    text = page([record("mean", 1, 1, [True, False, True], films)])
    assert shown in text
    assert ("The names of the videos contain no film" not in text) is knows_films


def test_folds_that_share_a_video_do_not_make_it_a_film_of_several():
    records = [record("mean", 5, 1, right(of=3), [*names], fold=fold) for fold, names in ((1, "abc"), (2, "bcd"))]
    assert "The names of the videos contain no film" in page(records)
    records = [record("mean", 5, 1, right(of=3), [*names], fold=fold) for fold, names in ((1, "aac"), (2, "bcd"))]
    assert "The names of the videos contain no film" not in page(records)


def test_the_page_shows_source_chance_code_and_machine():
    text = page([record("mean", 1, 1)])
    assert (
        "Source `synthetic`, fold 1, preset small, reward frame_log_score, 1000 updates of 32 clips x 4 rollouts;"
        in text
    )
    assert "chance 0.333." in text
    assert "Code c; M, 1 threads; ." in text
    assert "3 x 3 cells in each of 4 frames, 10 per second." in text


def test_a_measure_that_some_seeds_lack_is_not_averaged():
    records = [
        record("reinforce", 5, 1, focus=1.0), record("reinforce", 5, 2),
        record("mean", 5, 1, focus=2.0), record("random", 5, 1),
    ]  # fmt: skip
    header, *lines = [line.strip("| ").split(" | ") for line in table_of(records, all_columns=True)]
    place = header.index(MEASURES["focus"])
    assert [line[place] for line in lines] == ["-", "-", "2.000"]
    assert MEASURES["attention_on_actor"] not in header  # no run knows it


def test_published_figures_stand_below_the_models_and_are_marked(tmp_path):
    figures = read_reported(
        published(tmp_path, "soft attention,accuracy,41.3,A et al.", "soft attention,top3,60,A et al.")
    )
    header, *lines = table_of([record("reinforce", 5, 1)], figures, all_columns=True)
    assert header.startswith(
        "| model | glimpses | accuracy | minus random | clips | seeds | REINFORCE minus it | top 3 |"
    )
    assert lines[0].startswith("| REINFORCE, m glimpses | 5 | 0.500 | - | 2 | 1 | - | 1.000 |")
    assert lines[1].startswith("| soft attention (reported by A et al.) | - | 41.3 | - | - | - | - | 60 | - |")
    assert len(lines) == 2
    assert table_of([record("reinforce", 5, 1)], figures)[2] == (
        "| soft attention (reported by A et al.) | - | 41.3 | - | - |"
    )


def test_every_run_has_a_line_of_its_own():
    records = [record("random", 5, 2), record("reinforce", 5, 1, right(0, 1, 2)), record("random", 5, 1)]
    lines = list(csv.DictReader(io.StringIO(comma_separated(*runs_table(records_in_rows(records))))))
    assert [(line["model"], line["m"], line["seed"]) for line in lines] == [
        ("reinforce", "5", "1"), ("random", "5", "1"), ("random", "5", "2"),
    ]  # fmt: skip
    assert lines[0]["accuracy"] == "0.75"
    assert (lines[0]["validation_accuracy"], lines[0]["train_seconds"], lines[0]["trained_by"]) == ("0.5", "10.0", "c")


def test_a_bar_in_a_cell_does_not_end_it():
    assert Table(["a"], [["x|y"]]).markdown().splitlines() == ["| a |", "| --- |", r"| x\|y |"]


# ---- the table of a training command


def test_the_table_of_a_training_command_has_an_interval_over_films():
    # Both films deviate by 0.25: a standard error of 0.25, times t(0.975, 1) = 12.7, which is cut to [0, 1].
    found = evaluation([True, True, True, False], [0, 0, 1, 1], focus=0.25, vote_accuracy=0.5)
    lines = results_table([("reinforce", found), ("mean", evaluation([True] * 4))], 0.25).splitlines()
    assert lines[1].split() == ["reinforce", "0.750", "0.000", "to", "1.000", "0.500", "0.250", "-"]
    assert lines[2].split() == ["mean", "1.000", "-", "1.000", "-", "-"]
    assert lines[3] == "chance 0.250; 4 test videos of 2 films; the interval covers films, not seeds"
    assert results_table([("mean", evaluation([True] * 4))], 0.25).splitlines()[2] == (
        "chance 0.250; 4 test videos of 4 films"
    )
    assert lines[4:] == [
        "note on some intervals: all values are equal: the interval is unknown; few or unequal films (they count as "
        "4.0 equal ones): the interval is a rough one",
        "note on some intervals: few or unequal films (they count as 2.0 equal ones): the interval is a rough one",
    ]


def test_tables_of_untrimmed_clips_show_both_maps_and_the_events_found():
    events = {"mean_average_precision": 0.75, "detection_map": 0.5, "events_found": 0.625}
    header, line, other = table_of([record("reinforce", 5, 1, **events), record("random", 5, 1)])
    assert header.endswith("| clips | mAP | detection mAP | events found |")
    assert line.endswith("| 2 | 0.750 | 0.500 | 0.625 |")
    assert other.endswith("| 2 | - | - | - |")
    header, line, *_ = results_table([("reinforce", evaluation([True, False], **events))], 0.25).splitlines()
    assert header.endswith("  per look     mAP  detection mAP  events found")
    assert line.endswith("         -   0.750          0.500         0.625")


def test_validation_chooses_a_threshold_for_each_eta():
    # Nine thresholds: the first gives 3 right and 6 wrong, the second 2 and 1, the others nothing. eta * 3 -
    # (1 - eta) * 6 is above eta * 2 - (1 - eta) * 1 if eta > 5/6; the second earns more than 0 if eta > 1/3.
    nothing = ((0.0, 0.0),) * 7
    test = {"segments": 4.0, "segment_counts": ((2.0, 3.0), (1.0, 0.5), *nothing)}
    one = record("reinforce", 5, 1, **test)
    validation = evaluation([True], segments=4.0, segment_counts=((3.0, 6.0), (2.0, 1.0), *nothing))
    one = dataclasses.replace(one, result=dataclasses.replace(one.result, validation=validation))
    assert (one.by_eta(0.9), one.by_eta(0.8), one.by_eta(0.4)) == ((2 / 5, 1 / 2), (1 / 1.5, 1 / 4), (1 / 1.5, 1 / 4))
    precision, recall = one.by_eta(0.3)
    assert np.isnan(precision)
    assert recall == 0
    (row,) = rows_of([one])
    assert row.by_eta().shape == (2, 9)
    assert row.by_eta()[:, [3, 8]].tolist() == [[1 / 1.5, 2 / 5], [1 / 4, 1 / 2]]
    (_, figure) = comparison_figures([row], {})["events_by_eta"]
    lines = [axis.lines[0].get_ydata()[8] for axis in figure.axes]
    assert lines == [2 / 5, 1 / 2]
    (unknown,) = rows_of([record("reinforce", 5, 1, **test)])  # validation did not count segments
    assert unknown.by_eta() is None
    assert "events_by_eta" not in comparison_figures([unknown], {})


# ---- folds, seeds and the verdict


def test_each_fold_of_each_seed_is_a_run():
    line = parse_arguments(["--folds", "1", "3", "--seeds", "4", "5", "--models", "reinforce", "mean", "--out", "o"])
    assert [(str(job.path), job.config.task.fold) for job in jobs_of(line)] == [
        (f"o/fold{fold}/m5/seed{seed}/{model}", fold)
        for fold in (1, 3) for seed in (4, 5) for model in ("reinforce", "mean")
    ]  # fmt: skip
    alone = parse_arguments(["--fold", "2", "--seeds", "4", "--models", "mean", "--out", "o"])
    assert [(str(job.path), job.config.task.fold) for job in jobs_of(alone)] == [("o/m5/seed4/mean", 2)]


def test_a_folder_of_other_runs_is_refused_before_any_is_trained(tmp_path):
    base = write_config(tmp_path / "base", tiny_config(updates=2, warmup_share=0.0))
    words = ["--config", base, "--models", "random", "--out", tmp_path / "out"]
    run_main(compare, *words, "--seeds", 1)
    message = (
        r"seed2/random differs from .*seed1/random in updates: compare runs with equal settings, or choose another"
    )
    with pytest.raises(ValueError, match=message):
        run_main(compare, *words, "--seeds", 2, "--updates", 3)
    assert not (tmp_path / "out" / "m2" / "seed2").exists()


@pytest.mark.parametrize("of_wall", [False, True])
def test_folds_are_trained_and_averaged(tmp_path, capsys, of_wall):
    source = str(write_marked_store(tmp_path / "store", num_folds=2))
    if of_wall:
        write_json(tmp_path / "wall.json", {"source": source, "background": ["classa"], "grid": 3})
        source = f"wall:{tmp_path / 'wall.json'}"
    config = tiny_config(source=source, updates=2, warmup_share=0.0)
    base = write_config(tmp_path / "base", config)
    words = ["--folds", 1, 2, "--seeds", 1, "--models", "random", "mean", "--out", tmp_path / "out"]
    run_main(compare, "--config", base, *words)
    assert {
        path.parent.relative_to(tmp_path / "out").as_posix() for path in tmp_path.glob("out/**/evaluation.json")
    } == {f"fold{fold}/m2/seed1/{model}" for fold in (1, 2) for model in ("random", "mean")}
    printed = capsys.readouterr().out
    assert "mean over the folds 1, 2, preset small" in printed
    for model in ("random", "mean"):
        runs = [RunFolder(tmp_path / "out" / f"fold{fold}" / "m2" / "seed1" / model) for fold in (1, 2)]
        assert [run.record().config.task.fold for run in runs] == [1, 2]
        mean = np.mean([run.finished().measured.accuracy for run in runs])
        tested = 2 * len(runs[0].finished().measured.correct)
        assert f" | {mean:.3f} | - | {tested} |" in printed


def test_a_seed_counts_with_the_mean_over_its_folds():
    # Folds of 4 and 2 videos count alike: (1/4 + 1/2) / 2 and (3/4 + 2/2) / 2, not 2/6 and 5/6.
    records = [
        record("reinforce", 5, 1, right(0), fold=1), record("reinforce", 5, 1, right(1, of=2), fold=2),
        record("reinforce", 5, 2, right(0, 1, 2), fold=1), record("reinforce", 5, 2, right(0, 1, of=2), fold=2),
        record("random", 5, 1, right(), fold=1), record("random", 5, 1, right(0, of=2), fold=2),
        record("random", 5, 2, right(0, 1, 2, 3), fold=1),
    ]  # fmt: skip
    ours, random = rows_of(records)
    assert (ours.seeds, random.seeds) == ([1, 2], [1])  # random lacks fold 2 of seed 2
    assert ours.values("accuracy") == [0.375, 0.875]
    assert ours.mean("accuracy") == mean_interval([0.375, 0.875])
    np.testing.assert_allclose(ours.correct(), [[0.75, 0, 0, 0, 0, 1.5], [0.75, 0.75, 0.75, 0, 1.5, 1.5]])
    assert ours.films.tolist() == [0, 1, 2, 3, 0, 1]  # the second fold tests on two films of the first one
    assert ours.accuracy_gain(random).mean == pytest.approx(0.625 - 0.25)
    text = page(records)
    assert "mean over the folds 1, 2, preset small" in text
    assert "6 tests of 4 films" in text
    assert "Left out, because not all of the folds 1, 2 are finished: random (seed 2)." in text
    lines = list(csv.DictReader(io.StringIO(comma_separated(*runs_table(records_in_rows(records))))))
    assert [(line["model"], line["seed"], line["fold"]) for line in lines] == [
        ("reinforce", "1", "1"), ("reinforce", "1", "2"), ("reinforce", "2", "1"), ("reinforce", "2", "2"),
        ("random", "1", "1"), ("random", "1", "2"),
    ]  # fmt: skip


def test_seeds_without_a_fold_in_common_are_refused():
    records = [record("mean", 5, 1, fold=1), record("mean", 5, 2, fold=2)]
    with pytest.raises(ValueError, match="no seed of any model has all of the folds 1, 2: train the missing ones"):
        page(records)


@pytest.mark.parametrize(("seeds", "warns"), [((1, 2), True), ((1, 2, 3), False)])
def test_fewer_than_three_seeds_are_warned_about(seeds, warns):
    records = [record("mean", 5, seed, right(seed)) for seed in seeds]
    assert ("Fewer than 3 seeds: all models. Train more seeds before you draw conclusions." in page(records)) is warns
    more = [*records, *(record("max", 5, seed, right(0)) for seed in (1, 2, 3))]
    assert ("Fewer than 3 seeds: mean of all cells. Train" in page(more)) is warns


def test_equal_seeds_are_not_printed_as_certain():
    text = page([record("mean", 5, seed, right(0)) for seed in (1, 2, 3)])
    assert "| mean of all cells | - | 0.250 | - | 4 |" in text
    assert "±" not in text
    assert "Note on some accuracies: all values are equal: the interval is unknown." in text


def test_rows_of_one_model_are_named_by_the_settings_in_which_they_differ():
    records = [record("reinforce", 5, 1, settings={"skip": skip}) for skip in (False, True)]
    rows = rows_of([*records, record("reinforce", 3, 1), record("random", 5, 1)])
    assert [row.name for row in rows] == [
        "REINFORCE, 3 glimpses", "REINFORCE, 5 glimpses (skip False)", "REINFORCE, 5 glimpses (skip True)",
        "random, 5 cells",
    ]  # fmt: skip
    assert "| REINFORCE, m glimpses (skip True) | 5 |" in comparison_table(rows).markdown()


def test_rows_of_an_agent_trained_elsewhere_differ_in_name_by_their_cells():
    rows = rows_of([record("own:PPO", glimpses, 1) for glimpses in (1, 5)])
    assert [row.name for row in rows] == ["PPO, 1 cell", "PPO, 5 cells"]


def test_the_verdict_names_the_winner_its_lead_and_chance():
    films = range(40)
    records = [record("reinforce", 5, seed, [video >= seed for video in films]) for seed in (1, 2, 3)]
    records += [record("random", 5, seed, [video < 4 * seed for video in films]) for seed in (1, 2, 3)]
    records += [record("oracle", 5, seed, [True] * 40) for seed in (1, 2, 3)]
    rows = rows_of(records)
    gain = rows[0].accuracy_gain(rows[1])
    assert gain.excludes_zero
    lead = f"0.750 ± {gain.half:.3f}"
    assert verdict(rows) == (
        f"The most accurate of 2 models is REINFORCE, 5 glimpses: accuracy {rows[0].mean('accuracy')} on 40 test "
        f"clips, {lead} above random, 5 cells (more than chance explains). Chance is 0.333."
    )
    better = [record("soft", 5, seed, [True] * 40) for seed in (1, 2, 3)]
    assert verdict(rows_of([*records, *better])).endswith(
        f"Chance is 0.333; REINFORCE, 5 glimpses is {lead} above random, 5 cells (more than chance explains)."
    )
    alone = [record("reinforce", 1, seed, [video < 38 for video in films]) for seed in (1, 2, 3)]
    assert "; REINFORCE, 5 glimpses is 0.750 ± " in verdict(rows_of([*records, *alone]))  # one has no random row
    equal = [record(model, 5, seed, right(0)) for model in ("mean", "max") for seed in (1, 2, 3)]
    assert ", as accurate as maximum over all cells (chance may explain it)." in verdict(rows_of(equal))
    worse = [record("reinforce", 1, seed, [video == seed for video in films]) for seed in (1, 2, 3)]
    worse += [record("random", 1, seed, [video < 4 * seed for video in films]) for seed in (1, 2, 3)]
    assert " is 0.175 ± " in (text := verdict(rows_of([*worse, *better])))
    assert " below random, 1 cell (chance may explain it)." in text
    one = verdict(rows_of([record("mean", 5, 1)]))
    assert one == "The model is mean of all cells: accuracy 0.500 on 2 test clips. Chance is 0.333."
    few = verdict(rows_of([record("mean", 5, 1, right(0, 1)), record("max", 5, 1, right(1))]))
    assert "mean of all cells: accuracy 0.500 on 4 test clips, 0.250 ± 0.796 above maximum" in few
    assert few.endswith("(chance may explain it). Chance is 0.333.")
    assert verdict(rows_of([record("oracle", 5, 1)])) == ""


def test_latex_escapes_and_sets_signs():
    table = Table(["model", "gain_1"], [["a & b", "-0.125 ± 0.010 *"], ["soft-top", "<1 %"]])
    assert table.latex().splitlines() == [
        r"\begin{tabular}{lr}", r"\toprule", r"model & gain\_1 \\", r"\midrule",
        r"a \& b & $-$0.125 $\pm$ 0.010 * \\", r"soft-top & $<$1 \% \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip


# ---- errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,measure,value\nsoft,accuracy,1\n", r"line 2: needs model, measure, value and source \('source'\)"),
        ("model,measure,value,source\nsoft,accuracy,high,A\n", "line 2: needs .*could not convert string to float"),
        ("model,measure,value,source\nsoft,beauty,1,A\n", "line 2: measure must be one of .*, got 'beauty'"),
    ],
)
def test_published_figures_that_cannot_be_read_are_refused(tmp_path, text, message):
    (tmp_path / "paper.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_reported(tmp_path / "paper.csv")


def test_missing_figures_are_reported_before_anything_is_trained(base, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no published figures at .*nowhere.csv: it must be a CSV of model,"):
        run_main(compare, *base, "--out", tmp_path / "out", "--reported", tmp_path / "nowhere.csv")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"updates": 4}, "updates"),
        ({"dropout": 0.1}, "dropout"),
        ({"source": "synthetic-untrimmed", "abstain": True}, "abstain, source"),
    ],
)
def test_runs_with_different_settings_are_refused(tmp_path, changes, names):
    runs = [
        write_finished_run(
            tmp_path / f"seed{seed}", config.with_settings({"seed": seed}), run_result(evaluation([True]))
        )
        for seed, config in ((1, Config()), (2, Config().with_settings(changes)))
    ]
    with pytest.raises(ValueError, match=rf"seed2 differs from .*seed1 in {names}: compare runs with equal settings"):
        read_records(runs)


def test_models_may_differ_in_their_own_settings(tmp_path):
    runs = [
        write_finished_run(tmp_path / model, Config().with_settings(settings), run_result(evaluation([True])))
        for model, settings in {
            "reinforce": {"dropout": 0.1}, "random": {"model": "random", "dropout": 0.2, "device": "cuda"},
        }.items()
    ]  # fmt: skip
    records = read_records(runs)
    assert "Own settings of random, m cells: dropout 0.2." in page(records)


def test_runs_on_different_stores_are_refused(tmp_path):
    runs = []
    for number in (1, 2):
        run = RunFolder(tmp_path / f"run{number}")
        run.begin(Config(), dataclasses.replace(SOURCE, identity=str(number)))
        run.save_result(run_result(evaluation([True])))
        runs.append(run)
    with pytest.raises(ValueError, match=r"run2 differs from .*run1 in the store or wall"):
        read_records(runs)


def test_a_result_of_another_version_is_refused_and_can_be_measured_again(store, tmp_path, monkeypatch):
    config, run = tiny_config(source=store), RunFolder(tmp_path / "run")
    train(config, run.path)
    path, tested = run.path / "evaluation.json", read_json(run.path / "evaluation.json")
    without = {name: value for name, value in tested["test"].items() if name != "films"}
    for test, reason in ((without, ".* films"), (without | {"films": [0, 1, 2]}, "films are not names")):
        write_json(path, tested | {"test": test})
        with pytest.raises(ValueError, match=rf"does not fit this version \({reason}\): remove it, and"):
            read_records([run])
    path.unlink()
    monkeypatch.setattr("glimpse_agents.runs.trainer.git_commit", lambda: "later")
    train(config, run.path)
    assert read_json(path) == tested | {"tested_by": "later"}  # trained by the same commit as before


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run in .* \(no config.json\): name a folder"):
        write_comparison(tmp_path)


def test_an_unfinished_run_is_left_out(tmp_path):
    runs = [
        write_finished_run(tmp_path / model, Config().with_settings({"model": model}), run_result(evaluation([True])))
        for model in ("reinforce", "random")
    ]
    untested = RunFolder(tmp_path / "mean")
    untested.begin(Config().with_settings({"model": "mean"}), SOURCE)
    assert [one.model.name for one in read_records([*runs, untested])] == ["reinforce", "random"]
    untested.save_result(run_result(None))  # as of a trial of agents.tune
    assert [one.model.name for one in read_records([*runs, untested])] == ["reinforce", "random"]
    with pytest.raises(
        FileNotFoundError, match="none of these runs is finished: finish one with videoglimpse train --resume"
    ):
        read_records([untested])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": (1, 1)}, "--seeds must be different, got 1 1"),
        ({"budgets": (2, 0, 2)}, "--budgets must be different, got 2 0 2"),
        ({"folds": (1, 1)}, "--folds must be different, got 1 1"),
        ({"seeds": ()}, "--seeds names no seed: give at least one"),
    ],
)
def test_seeds_and_budgets_that_cannot_be_compared_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Output(**settings)


def test_a_budget_of_no_glimpses_is_refused():
    with pytest.raises(ValueError, match="glimpses must be at least 1, got 0"):
        jobs_of(parse_arguments(["--budgets", "2", "0"]))


def test_a_model_that_cannot_be_played_is_refused_before_anything_is_trained(base, tmp_path):
    with pytest.raises(ValueError, match="glimpses"):
        run_main(compare, *base, 10, "--out", tmp_path / "out")  # the grid has 9 cells
    assert not (tmp_path / "out").exists()


# ---- figures


def test_axes_and_error_bars_of_accuracy_stay_between_0_and_1():
    # A half and all right: 0.75 plus or minus 12.7 standard errors of 0.25, which is all of the axis.
    seeds = {1: right(0, 1), 2: right(0, 1, 2, 3)}
    rows = rows_of([record("reinforce", m, seed, correct) for m in (1, 5) for seed, correct in seeds.items()])
    figures = comparison_figures(rows, {row.name: ClipMacs(100.0, None) for row in rows})
    assert len(figures) == 3
    bars = []
    for _, figure in figures.values():
        [axis] = figure.axes
        assert axis.get_ylim() == (0, 1)
        bars += [segment for container in axis.containers for segment in container[2][0].get_segments()]
    assert np.stack(bars)[..., 1] == pytest.approx(np.array([[0.0, 1.0]] * 4))


def test_a_single_validation_is_drawn_as_a_marker(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"update": 100, "validation/accuracy": 0.5}\n')
    [axis] = learning_figure([dataclasses.replace(record("reinforce", 5, 1), run=RunFolder(tmp_path))]).axes
    [line] = axis.lines
    assert (line.get_xydata().tolist(), line.get_marker()) == ([[100.0, 0.5]], "o")


def test_a_short_table_has_five_columns():
    assert len(table_of([record("reinforce", 5, 1)])[0].strip("| ").split(" | ")) == 5
    assert len(table_of([record("reinforce", 5, 1)], all_columns=True)[0].strip("| ").split(" | ")) > 5


def test_costs_are_named_under_the_table():
    costs = {"look_cost": 0.25, "frame_cost": 0.5}
    text = page([record(model, 2, 1, settings=costs) for model in ("reinforce", "unlimited")])
    assert "Each observed frame after the first takes 0.5 off the reward." in text
    paid = (
        "any number of glimpses: each look takes 0.25 off the reward; looks are free in the first half of the updates,"
    )
    assert text.count(paid) == text.count("0.25") == 1
    assert "off the reward" not in page([record("reinforce", 2, 1)])
