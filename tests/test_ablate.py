"""Ablations: the settings that each value changes, the runs that are trained or skipped, and the tables."""

import csv
import json
import shutil

import numpy as np
import pytest
from agent_toys import tiny_config, write_marked_store
from finished_runs import evaluation, run_main, run_result, write_config, write_finished_run
from glimpse_agents import ablate as ablation
from glimpse_agents.ablate import (
    FACTORS,
    Output,
    ablate,
    chosen,
    jobs_of,
    parse_arguments,
    results_of,
    table,
    variant_of,
    variants,
    write_tables,
)
from glimpse_agents.learning.config import PATHS, Config
from glimpse_agents.learning.presets import PRESETS
from glimpse_agents.runs.files import write_json
from glimpse_agents.runs.folder import RunFolder
from glimpse_agents.tables.intervals import crossed_interval

TRIMMED = Config().with_settings({"abstain": False})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_marked_store(tmp_path_factory.mktemp("store") / "marked"))


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """Return the base and the folder of ablations of three factors over two seeds."""
    config = tiny_config(source=store, updates=3)
    out = tmp_path_factory.mktemp("ablations") / "out"
    ablate(config, out, seeds=(1, 2), factors=("reward", "eta", "rollouts"))
    return config, out


def write_run(out, base, name, seed, *, right, validation, films=None, focus=0.5, seconds=10.0, **settings):
    """Write a finished run with `right` of 4 test videos right."""
    test = evaluation([video < right for video in range(4)], films, focus=focus)
    result = run_result(test, validation=validation, seconds=seconds)
    write_finished_run(out / name / f"seed{seed}", base.with_settings({"seed": seed} | settings), result)


def write_ablation(out, base, *factors):
    write_json(out / "ablation.json", {"config": base.to_json(), "factors": factors})


def write_credit_runs(out):
    """Write runs of three seeds for both values of credit."""
    write_ablation(out, TRIMMED, "credit")
    for seed, validation in enumerate([0.8, 0.7, 0.9], 1):
        write_run(out, TRIMMED, "base", seed, right=seed, validation=validation)
        other = {"right": seed + 1, "validation": validation - 0.1, "seconds": 20.0}
        write_run(out, TRIMMED, "credit=terminal", seed, credit="terminal", **other)


def chosen_of(out):
    return [result.variant.value for result in chosen(results_of(out))]


def line_of(out, start):
    (line,) = [line for line in (out / "table.md").read_text().splitlines() if line.startswith(start)]
    return line


# ---- the settings that are changed


@pytest.mark.parametrize("abstain", [False, True])
def test_a_variant_differs_from_the_base_in_its_settings_alone(abstain):
    base = Config().with_settings({"abstain": abstain})
    for variant in variants(base):
        if variant.config is None:
            continue
        assert variant.settings.items() >= FACTORS[variant.factor][variant.value].items()
        changed = {name for name in PATHS if variant.config.setting(name) != base.setting(name)}
        assert changed <= variant.settings.keys(), variant
        resolved = {name: variant.config.setting(name) for name in variant.settings}
        if "class_gradient" in resolved:  # None stands for a value
            resolved["class_gradient"] = variant.config.samples_classes
        assert resolved == variant.settings


def test_the_factors_are_those_that_the_paper_leaves_open():
    assert {factor: list(values) for factor, values in FACTORS.items()} == {
        "credit": ["causal", "terminal"],
        "baseline": ["none", "value", "leave_one_out"],
        "encoder": ["sum", "what_and_where"],
        "slice_weights": ["uniform", "softmax", "attended"],
        "penalty": ["0", "0.1", "1", "10"],
        "eta": ["0.25", "0.5", "0.75"],
        "class_gradient": ["likeliest", "drawn"],
        "glimpse_order": ["joint", "sequential"],
        "reward": ["eq7", "frame_log_score", "clip_log_score"],
        "rollouts": ["1", "2", "4", "8"],
        "scorer": ["grid", "memory"],
        "standardise": ["no", "yes"],
    }


def test_values_of_the_base_share_its_runs():
    shared = {
        preset: {(one.factor, one.value) for one in variants(config.with_settings({"abstain": False})) if one.is_base}
        for preset, config in PRESETS.items()
    }
    same = {("baseline", "leave_one_out"), ("class_gradient", "likeliest"), ("glimpse_order", "joint")}
    assert shared["small"] == same | {
        ("credit", "causal"), ("encoder", "what_and_where"), ("slice_weights", "uniform"), ("penalty", "0"),
        ("reward", "frame_log_score"), ("rollouts", "4"), ("scorer", "grid"), ("standardise", "yes"),
    }  # fmt: skip
    assert shared["features"] == same | {
        ("credit", "terminal"), ("encoder", "sum"), ("slice_weights", "uniform"), ("penalty", "0"),
        ("reward", "clip_log_score"), ("rollouts", "2"), ("scorer", "grid"), ("standardise", "no"),
    }  # fmt: skip
    assert all(one.folder == "base" for one in variants(PRESETS["small"]) if one.is_base)


def test_a_value_that_the_base_does_not_allow_alone_changes_its_companion_too():
    attended, small = PRESETS["attended"], PRESETS["small"]
    whole_clip = attended.with_settings({"credit": "terminal", "reward": "clip_log_score"})
    causal = variant_of(whole_clip, "credit", "causal")
    assert causal.config == attended
    grid = variant_of(attended, "scorer", "grid")
    assert grid.config == attended.with_settings({"scorer": "grid", "slice_weights": "uniform"})
    whole = variant_of(small, "reward", "clip_log_score")
    assert whole.config == small.with_settings({"credit": "terminal", "reward": "clip_log_score"})
    assert not causal.is_alone
    assert not whole.is_alone
    alone = variant_of(small.with_settings({"credit": "terminal"}), "credit", "causal")
    assert alone.settings == {"credit": "causal"}
    assert alone.is_alone


def test_on_untrimmed_clips_the_base_has_an_eta_of_a_half_and_draws_classes():
    base = Config().with_settings({"abstain": True})
    assert variant_of(base, "eta", "0.5").is_base
    assert variant_of(base, "class_gradient", "drawn").is_base
    refused = variant_of(base, "class_gradient", "likeliest")
    assert refused.config is None
    assert "unset class_gradient" in refused.reason


# ---- training


def test_each_value_is_trained_once_for_each_seed(trained):
    _, out = trained
    values = ["base", "eta=0.25", "eta=0.5", "eta=0.75", "reward=frame_log_score", "reward=clip_log_score"]
    values += ["rollouts=1", "rollouts=4", "rollouts=8"]
    runs = sorted(str(path.parent.relative_to(out)) for path in out.rglob("evaluation.json"))
    assert runs == sorted(f"{value}/seed{seed}" for value in values for seed in (1, 2))
    config = RunFolder(out / "rollouts=1" / "seed2").record().config
    assert (config.training.rollouts, config.setting("baseline"), config.training.seed) == (1, "value", 2)
    assert config.model == "reinforce"


def test_all_runs_of_a_seed_are_trained_before_the_next_seed(tmp_path):
    jobs = jobs_of(TRIMMED, tmp_path, (4, 2), ("reward", "credit"))
    names = ["base", "reward=eq7", "reward=clip_log_score", "credit=terminal"]
    assert [job.path for job in jobs] == [tmp_path / name / f"seed{seed}" for seed in (4, 2) for name in names]
    assert [job.config.training.seed for job in jobs] == [4] * 4 + [2] * 4


def test_a_value_that_the_base_does_not_allow_is_skipped_with_a_reason(tmp_path):
    write_ablation(tmp_path, Config().with_settings({"abstain": True}), "class_gradient")
    write_tables(tmp_path)
    line = line_of(tmp_path, "| class_gradient | likeliest | 0 | - | - |")
    assert "| skipped: " in line
    assert "unset class_gradient" in line


def test_the_table_names_companions(trained):
    _, out = trained
    assert line_of(out, "| reward | clip_log_score | 2 | ").endswith("| with credit terminal |")
    with (out / "table.csv").open() as file:
        notes = {(row["factor"], row["value"]): row["note"] for row in csv.DictReader(file)}
    assert [notes["eta", value] for value in ("0.25", "0.5", "0.75")] == ["with abstain True"] * 3
    assert notes["rollouts", "1"] == "with baseline value"
    assert notes["rollouts", "2"] == "base"


def test_the_tables_hold_the_results_of_the_runs(trained):
    _, out = trained
    lines = (out / "table.md").read_text().splitlines()
    names = [line.split(" | ")[0].strip("| ") for line in lines[2:12]]
    assert names == ["eta"] * 3 + ["reward"] * 3 + ["rollouts"] * 4
    with (out / "table.csv").open() as file:
        rows = {(row["factor"], row["value"]): row for row in csv.DictReader(file)}
    tests = {
        name: [RunFolder(out / name / f"seed{seed}").finished().measured for seed in (1, 2)]
        for name in ("base", "rollouts=8")
    }
    mean = {name: np.mean([test.accuracy for test in pair]) for name, pair in tests.items()}
    row = rows["rollouts", "8"]
    assert float(row["accuracy"]) == pytest.approx(mean["rollouts=8"])
    assert float(row["minus_base"]) == pytest.approx(mean["rollouts=8"] - mean["base"])
    assert (row["seeds"], json.loads(row["settings"])) == ("1 2", {"rollouts": 8})
    assert rows["rollouts", "2"]["is_base"] == "True"
    assert rows["rollouts", "2"]["minus_base"] == ""
    assert float(rows["rollouts", "2"]["accuracy"]) == pytest.approx(mean["base"])


def test_finished_runs_are_kept_and_factors_can_be_added(trained, tmp_path):
    config, earlier = trained
    out = shutil.copytree(earlier, tmp_path / "out")
    shutil.rmtree(out / "eta=0.25" / "seed2")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("best.safetensors")}
    ablate(config, out, seeds=(1, 2), factors=("eta", "credit"))
    after = {path: path.stat().st_mtime_ns for path in out.rglob("best.safetensors")}
    new = {str(path.parent.relative_to(out)) for path in set(after) - set(before)}
    assert new == {"eta=0.25/seed2", "credit=terminal/seed1", "credit=terminal/seed2"}
    assert all(after[path] == time for path, time in before.items())
    assert {row.variant.factor for row in results_of(out)} == {"credit", "eta", "reward", "rollouts"}
    one, two = ((folder / "eta=0.25" / "seed2" / "best.safetensors").read_bytes() for folder in (earlier, out))
    assert one == two


def test_the_same_call_resumes_after_an_interruption(store, tmp_path, monkeypatch):
    config, train, begun = tiny_config(source=store, updates=3), ablation.train, []

    def interrupt(config, folder, **options):
        begun.append(folder.relative_to(tmp_path).as_posix())
        result = train(config, folder, **options)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(ablation, "train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ablate(config, tmp_path, seeds=(1, 2), factors=("credit",))
    assert [len(row.records) for row in results_of(tmp_path)] == [1, 1]
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*/seed1/best.safetensors"))]
    ablate(config, tmp_path, seeds=(1, 2), factors=("credit",))
    assert begun[2:] == ["base/seed1", "credit=terminal/seed1", "base/seed2", "credit=terminal/seed2"]
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*/seed1/best.safetensors"))] == times


def test_a_run_whose_numbers_overflow_is_noted_and_the_others_are_trained(store, tmp_path, monkeypatch, capsys):
    train = ablation.train

    def overflow(config, folder, **options):
        if config.training.penalty == 10.0:
            raise FloatingPointError("the loss of update 2 is not finite")
        return train(config, folder, **options)

    monkeypatch.setattr(ablation, "train", overflow)
    ablate(tiny_config(source=store, updates=3), tmp_path, seeds=(1,), factors=("penalty",))
    rows = {row.variant.value: row for row in results_of(tmp_path)}
    assert rows["10"].note == "seed 1 failed: the loss of update 2 is not finite"
    assert [len(row.records) for row in rows.values()] == [1, 1, 1, 0]
    assert len(chosen(list(rows.values()))) == 1  # a failed value is no candidate
    assert "penalty=10/seed1 failed: the loss of update 2 is not finite" in capsys.readouterr().err
    monkeypatch.setattr(ablation, "train", train)
    ablate(tiny_config(source=store, updates=3), tmp_path, seeds=(1,), factors=("penalty",))
    assert {row.note for row in results_of(tmp_path) if row.variant.value == "10"} == {""}  # it has succeeded since


def test_another_base_in_the_same_folder_is_refused(trained):
    config, out = trained
    with pytest.raises(ValueError, match="holds the ablations of another configuration: choose another --out"):
        ablate(config.with_settings({"updates": 4}), out, seeds=(1,), factors=())


def test_a_base_that_cannot_be_played_is_refused_before_anything_is_written(store, tmp_path):
    with pytest.raises(ValueError, match="glimpses"):
        ablate(tiny_config(source=store, glimpses=10), tmp_path / "out", seeds=(1,), factors=("credit",))
    assert not (tmp_path / "out").exists()


def test_a_folder_without_ablations_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no ablation.json in "):
        write_tables(tmp_path)


def test_a_run_of_another_configuration_is_refused(tmp_path):
    write_credit_runs(tmp_path)
    settings = {"credit": "terminal", "updates": 999}
    write_run(tmp_path, TRIMMED, "credit=terminal", 4, right=4, validation=1.0, **settings)
    with pytest.raises(ValueError, match="seed4 holds a run of another configuration: choose another --out"):
        results_of(tmp_path)


# ---- tables


def test_the_table_has_means_intervals_and_differences(tmp_path):
    write_credit_runs(tmp_path)
    # The accuracies are 1/4, 2/4, 3/4 and 2/4, 3/4, 4/4: half an interval is 4.3027 * 0.25 / sqrt(3).
    base, other = ([[video < right + more for video in range(4)] for right in (1, 2, 3)] for more in (0, 1))
    gain = crossed_interval(other, range(4), base)
    assert (gain.mean, gain.excludes_zero) == (0.25, False)
    lines = table(results_of(tmp_path)).splitlines()
    assert lines[0] == (
        "| factor | value | seeds | validation accuracy | accuracy | minus base | focus | focus per look | "
        "train seconds | chosen | note |"
    )
    assert lines[2:4] == [
        "| credit | causal | 3 | 0.800 ± 0.248 | 0.500 ± 0.621 | - | 0.500 | - | 10 | yes | base |",
        f"| credit | terminal | 3 | 0.700 ± 0.248 | 0.750 ± 0.621 | +0.250 ± {gain.half:.3f} | 0.500 | - | 20 |  |  |",
    ]
    assert "This table makes 1 comparison;" in lines[5]
    assert lines[7].startswith("Note on some differences: few or unequal films")


def test_videos_of_one_film_count_together_in_a_difference(tmp_path):
    write_ablation(tmp_path, TRIMMED, "credit")
    films = {"films": [7, 7, 3, 3], "validation": 0.5}
    write_run(tmp_path, TRIMMED, "base", 1, right=0, **films)
    write_run(tmp_path, TRIMMED, "credit=terminal", 1, right=2, credit="terminal", **films)
    # The two films differ from the mean of 0.5 by 0.5: a standard error of 0.5, and t(0.975, 1) = 12.7062.
    text = table(results_of(tmp_path))
    assert " | +0.500 ± 6.353 | " in text
    assert "a model has one seed: the interval does not cover its seeds" in text


def test_a_difference_whose_interval_excludes_zero_is_marked(tmp_path):
    write_ablation(tmp_path, TRIMMED, "encoder")
    for seed in (1, 2, 3):
        right, wrong = ([one] * 40 for one in (True, False))
        right[seed] = False
        for name, correct, settings in (("base", wrong, {}), ("encoder=sum", right, {"encoder": "sum"})):
            config = TRIMMED.with_settings({"seed": seed} | settings)
            write_finished_run(tmp_path / name / f"seed{seed}", config, run_result(evaluation(correct)))
    assert " * | " in table(results_of(tmp_path)).splitlines()[2]


def test_the_csv_leaves_unknown_numbers_empty(tmp_path):
    write_ablation(tmp_path, TRIMMED, "credit")
    write_run(tmp_path, TRIMMED, "base", 1, right=2, validation=0.5, focus=None)
    write_tables(tmp_path)
    with (tmp_path / "table.csv").open() as file:
        base, other = csv.DictReader(file)
    assert (base["accuracy"], base["accuracy_half_interval"], base["focus"]) == ("0.5", "", "")
    assert (base["minus_base"], base["train_seconds"], base["is_chosen"]) == ("", "10.0", "False")
    assert (other["seeds"], other["accuracy"], other["minus_base"]) == ("", "", "")


def test_validation_chooses_over_the_seeds_that_all_values_share(tmp_path):
    write_credit_runs(tmp_path)
    write_run(tmp_path, TRIMMED, "credit=terminal", 4, right=0, validation=1.0, credit="terminal")
    assert chosen_of(tmp_path) == ["causal"]  # 0.8 against 0.7 over seeds 1 to 3
    write_run(tmp_path, TRIMMED, "base", 4, right=4, validation=0.0)
    assert chosen_of(tmp_path) == ["terminal"]  # 0.6 against 0.775 over all


def test_a_value_with_companions_is_not_chosen(tmp_path):
    write_ablation(tmp_path, TRIMMED, "reward")
    write_run(tmp_path, TRIMMED, "base", 1, right=2, validation=0.5)
    write_run(tmp_path, TRIMMED, "reward=eq7", 1, right=2, validation=0.4, reward="eq7")
    whole = {"reward": "clip_log_score", "credit": "terminal"}
    write_run(tmp_path, TRIMMED, "reward=clip_log_score", 1, right=4, validation=0.9, **whole)
    assert chosen_of(tmp_path) == ["frame_log_score"]


def test_nothing_is_chosen_before_all_are_trained_and_the_base_wins_a_tie(tmp_path):
    write_ablation(tmp_path, TRIMMED, "encoder")
    write_run(tmp_path, TRIMMED, "base", 1, right=2, validation=0.5)
    assert chosen_of(tmp_path) == []
    write_run(tmp_path, TRIMMED, "encoder=sum", 1, right=4, validation=0.5, encoder="sum")
    assert chosen_of(tmp_path) == ["what_and_where"]


# ---- the command line


def test_only_table_writes_the_tables_of_finished_runs(tmp_path, capsys):
    write_credit_runs(tmp_path)
    run_main(ablation, "--out", tmp_path, "--only-table", "--source", "gone")
    assert capsys.readouterr().out.strip() == (tmp_path / "table.md").read_text().strip()
    assert (tmp_path / "table.csv").exists()


def test_the_command_trains_and_prints_the_table(store, tmp_path, capsys):
    config = write_config(tmp_path / "base", tiny_config(source=store, updates=3))
    words = ["--out", tmp_path / "out", "--seeds", 3, "--factors", "credit"]
    run_main(ablation, "--config", config, *words)
    printed = capsys.readouterr().out
    assert "[1/2] base/seed3" in printed
    assert "[2/2] credit=terminal/seed3" in printed
    assert "| credit | causal | 1 | " in printed
    run_main(ablation, "--config", config, *words)
    assert "/seed3" not in capsys.readouterr().out  # finished runs are not announced


def test_the_command_line_takes_the_flags_of_training():
    line = parse_arguments(
        ["--seeds", "4", "5", "--factors", "credit", "eta", "--updates", "7", "--warmup-share", "0.1", "--seed", "9"]
    )
    assert (line.output.seeds, line.output.factors) == ((4, 5), ("credit", "eta"))
    assert line.config == PRESETS["small"].with_settings({"updates": 7, "warmup_share": 0.1, "seed": 9})
    assert parse_arguments([]).output.factors == tuple(FACTORS)


def test_seed_has_no_effect(trained, tmp_path):
    config, out = trained
    ablate(config.with_settings({"seed": 9}), shutil.copytree(out, tmp_path / "out"), seeds=(1,), factors=("eta",))
    assert not list((tmp_path / "out").rglob("seed9"))


def test_a_command_line_without_seeds_or_with_another_model_is_refused():
    with pytest.raises(ValueError, match="--seeds names no seed: give at least one"):
        Output(seeds=())
    with pytest.raises(ValueError, match="--models must be reinforce, whose settings are changed, got random"):
        parse_arguments(["--models", "random"])
