"""Ablations: one setting at a time, what is skipped and gone on with, and a table that is read off the records."""

import csv
import dataclasses
import json
import shutil
import signal

import pytest
from agent_toys import tiny_config, write_marked_store
from glimpse_agents import ablate as ablation
from glimpse_agents.ablate import (
    FACTORS,
    Arguments,
    ablate,
    main,
    markdown,
    rows_of,
    variant_of,
    variants,
    write_tables,
)
from glimpse_agents.learning.config import PRESETS, Config, parse_as
from glimpse_agents.runs.folder import read_json, write_json
from glimpse_agents.runs.signals import StoppedError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_marked_store(tmp_path_factory.mktemp("store") / "marked"))


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """The base and the folder of three factors' ablations over two seeds."""
    config = tiny_config(source=store, updates=3, warmup_updates=1, controls=())
    out = tmp_path_factory.mktemp("ablations") / "out"
    ablate(config, out, seeds=(1, 2), factors=("reward", "eta", "rollouts"))
    return config, out


def write_record(out, base, name, seed, *, validation, accuracy, focus=0.5, seconds=10.0, **changes):
    """Write what a finished run leaves of itself for the table."""
    folder, config = out / name / f"seed{seed}", dataclasses.replace(base, seed=seed, **changes)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"config": config.to_json()})
    result = {
        "accuracy": {"learned": accuracy},
        "validation_accuracy": {"learned": validation},
        "focus": {} if focus is None else {"learned": focus},
        "focus_per_look": {},
        "train_seconds": seconds,
    }
    write_json(folder / "result.json", result)


def write_ablation(out, base, *factors):
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "ablation.json", {"config": base.to_json(), "factors": factors})


def credit_records(out, *, focus=0.5):
    """Write three seeds of both credits, and return their base."""
    base = Config(controls=(), abstain=False)
    write_ablation(out, base, "credit")
    for seed, (validation, accuracy) in enumerate([(0.8, 0.5), (0.7, 0.6), (0.9, 0.7)], 1):
        write_record(out, base, "base", seed, validation=validation, accuracy=accuracy, focus=focus)
        other = {"validation": validation - 0.1, "accuracy": accuracy + 0.1 * seed}
        write_record(out, base, "credit=terminal", seed, **other, focus=focus, seconds=20.0, credit="terminal")
    return base


# ---- what is changed


def test_every_value_changes_its_factor_and_what_comes_with_it():
    base = Config(abstain=False)
    for variant in variants(base):
        if variant.config is None:
            continue
        asked = variant.settings
        assert asked.items() >= FACTORS[variant.factor][variant.value].items()
        changed = base.to_json() | {"class_gradient": base.draws_classes}
        fields = variant.config.to_json() | {"class_gradient": variant.config.draws_classes}
        for name, value in asked.items():
            target = changed["policy"] if name.startswith("policy.") else changed
            target[name.removeprefix("policy.")] = value
        changed["class_gradient"] = changed["class_gradient"] or changed["abstain"]
        assert fields == changed, variant


def test_the_factors_are_those_that_the_paper_leaves_open():
    assert {factor: list(values) for factor, values in FACTORS.items()} == {
        "credit": ["causal", "terminal"],
        "baseline": ["none", "value", "leave_one_out"],
        "encoder": ["sum", "what_and_where"],
        "slice_weights": ["uniform", "softmax"],
        "penalty": ["0", "0.1", "1", "10"],
        "eta": ["0.25", "0.5", "0.75"],
        "class_gradient": ["likeliest", "drawn"],
        "glimpse_order": ["joint", "sequential"],
        "reward": ["eq7", "frame_log_score", "clip_log_score"],
        "rollouts": ["1", "2", "4", "8"],
    }


def test_values_of_the_base_share_its_runs():
    shared = {
        preset: {(variant.factor, variant.value) for variant in variants(dataclasses.replace(config, abstain=False))
                 if variant.is_base}
        for preset, config in PRESETS.items()
    }  # fmt: skip
    same = {("baseline", "leave_one_out"), ("class_gradient", "likeliest"), ("glimpse_order", "joint")}
    assert shared["small"] == same | {
        ("credit", "causal"), ("encoder", "what_and_where"), ("slice_weights", "uniform"), ("penalty", "0"),
        ("reward", "eq7"), ("rollouts", "4"),
    }  # fmt: skip
    assert shared["features"] == same | {
        ("credit", "terminal"), ("encoder", "sum"), ("slice_weights", "uniform"), ("penalty", "0"),
        ("reward", "clip_log_score"), ("rollouts", "2"),
    }  # fmt: skip
    assert all(variant.folder == "base" for variant in variants(PRESETS["small"]) if variant.is_base)


def test_a_value_that_the_base_does_not_take_alone_comes_with_what_it_needs():
    causal = variant_of(PRESETS["features"], "credit", "causal")
    assert causal.config == dataclasses.replace(PRESETS["features"], credit="causal", reward="frame_log_score")
    whole = variant_of(PRESETS["small"], "reward", "clip_log_score")
    assert whole.config == dataclasses.replace(PRESETS["small"], credit="terminal", reward="clip_log_score")
    alone = variant_of(dataclasses.replace(PRESETS["small"], credit="terminal"), "credit", "causal")
    assert alone.settings == {"credit": "causal"}


def test_on_untrimmed_clips_half_is_the_bases_eta():
    base = Config(abstain=True)
    assert variant_of(base, "eta", "0.5").is_base
    assert variant_of(base, "class_gradient", "drawn").is_base
    refused = variant_of(base, "class_gradient", "likeliest")
    assert refused.config is None
    assert "leave class_gradient out" in refused.reason


# ---- training


def test_each_value_is_trained_once_for_each_seed(trained):
    _, out = trained
    values = ["base", "eta=0.25", "eta=0.5", "eta=0.75", "reward=frame_log_score", "reward=clip_log_score"]
    values += ["rollouts=1", "rollouts=4", "rollouts=8"]
    runs = sorted(str(path.parent.relative_to(out)) for path in out.glob("*/*/result.json"))
    assert runs == sorted(f"{value}/seed{seed}" for value in values for seed in (1, 2))
    kept = Config.from_json(read_json(out / "rollouts=1" / "seed2" / "config.json")["config"])
    assert (kept.rollouts, kept.baseline, kept.seed, kept.controls) == (1, "value", 2, ())
    assert not list(out.rglob("controls"))


def test_what_does_not_go_together_is_named_in_the_table(tmp_path):
    write_ablation(tmp_path, Config(abstain=True, controls=()), "class_gradient")
    (line,) = [line for line in write_tables(tmp_path).splitlines() if "| likeliest |" in line]
    assert line.startswith("| class_gradient | likeliest | 0 | - | - |")
    assert "| skipped: " in line
    assert "leave class_gradient out" in line


def test_what_comes_with_a_value_is_named_in_the_table(trained):
    _, out = trained
    (line,) = [line for line in (out / "table.md").read_text().splitlines() if "clip_log_score" in line[:30]]
    assert line.startswith("| reward | clip_log_score | 2 | ")
    assert line.endswith("| with credit terminal |")


def test_the_tables_are_those_of_the_results(trained):
    _, out = trained
    lines = (out / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == ["eta"] * 3 + ["reward"] * 3 + ["rollouts"] * 4
    with (out / "table.csv").open() as file:
        rows = {(row["factor"], row["value"]): row for row in csv.DictReader(file)}
    results = {
        name: [read_json(out / name / f"seed{seed}" / "result.json") for seed in (1, 2)]
        for name in ("base", "rollouts=8")
    }
    mean = {name: sum(result["accuracy"]["learned"] for result in pair) / 2 for name, pair in results.items()}
    row = rows["rollouts", "8"]
    assert float(row["accuracy"]) == pytest.approx(mean["rollouts=8"])
    assert float(row["minus_base"]) == pytest.approx(mean["rollouts=8"] - mean["base"])
    assert (row["seeds"], json.loads(row["settings"])) == ("1 2", {"rollouts": 8})
    assert rows["rollouts", "2"]["is_base"] == "True"
    assert float(rows["rollouts", "2"]["accuracy"]) == pytest.approx(mean["base"])
    assert [row["note"] for row in rows.values() if row["factor"] == "eta"] == ["with abstain True"] * 3
    assert rows["rollouts", "1"]["note"] == "with baseline value"


def test_what_is_finished_is_not_trained_again_and_factors_can_be_added(trained, tmp_path):
    config, earlier = trained
    out = tmp_path / "out"
    shutil.copytree(earlier, out)
    shutil.rmtree(out / "eta=0.25" / "seed2")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("best.safetensors")}
    ablate(config, out, seeds=(1, 2), factors=("eta", "credit"))
    after = {path: path.stat().st_mtime_ns for path in out.rglob("best.safetensors")}
    new = {str(path.parent.relative_to(out)) for path in set(after) - set(before)}
    assert new == {"eta=0.25/seed2", "credit=terminal/seed1", "credit=terminal/seed2"}
    assert all(after[path] == time for path, time in before.items())
    names = [line.split(" | ")[0].strip("| ") for line in (out / "table.md").read_text().splitlines()[2:]]
    assert sorted(set(names)) == ["credit", "eta", "reward", "rollouts"]
    one, two = ((folder / "eta=0.25" / "seed2" / "best.safetensors").read_bytes() for folder in (earlier, out))
    assert one == two


def test_a_run_that_is_stopped_is_gone_on_with(store, tmp_path, monkeypatch):
    config = tiny_config(source=store, updates=3, warmup_updates=1, controls=())
    train, begun = ablation.train, []

    def stop_in_the_second(config, folder):
        begun.append(folder)
        if len(begun) == 2:
            signal.raise_signal(signal.SIGTERM)  # noted here, and obeyed once the run is over
        return train(config, folder)

    monkeypatch.setattr(ablation, "train", stop_in_the_second)
    with pytest.raises(StoppedError, match="stopped by SIGTERM after credit=terminal, seed 1"):
        ablate(config, tmp_path / "out", seeds=(1, 2), factors=("credit",))
    assert len(begun) == 2
    ablate(config, tmp_path / "out", seeds=(1, 2), factors=("credit",))
    assert [folder.relative_to(tmp_path / "out").as_posix() for folder in begun[2:]] == [
        "base/seed2", "credit=terminal/seed2",
    ]  # fmt: skip


def test_a_run_whose_numbers_overflow_is_noted_and_the_others_go_on(store, tmp_path, monkeypatch, capsys):
    config = tiny_config(source=store, updates=3, warmup_updates=1, controls=())
    train = ablation.train

    def overflow(config, folder):
        if config.penalty == 10.0:
            raise FloatingPointError("the loss of update 2 is not finite")
        return train(config, folder)

    monkeypatch.setattr(ablation, "train", overflow)
    ablate(config, tmp_path, seeds=(1,), factors=("penalty",))
    rows = {row.variant.value: row for row in rows_of(tmp_path)}
    assert rows["10"].note == "seed 1 failed: the loss of update 2 is not finite"
    assert [len(row.seeds) for row in rows.values()] == [1, 1, 1, 0]
    assert sum(row.is_chosen for row in rows.values()) == 1
    assert "error: the loss of update 2 is not finite" in capsys.readouterr().err


def test_what_cannot_be_trained_is_refused(trained, store, tmp_path):
    config, out = trained
    with pytest.raises(ValueError, match="holds the ablations of another configuration: choose another --out"):
        ablate(dataclasses.replace(config, updates=4), out, seeds=(1,), factors=())
    with pytest.raises(ValueError, match="name at least one seed"):
        ablate(config, tmp_path, seeds=(), factors=())
    with pytest.raises(FileNotFoundError, match=r"no ablation.json in .*: it is not the folder of such a run"):
        write_tables(tmp_path)


def test_a_run_of_another_configuration_is_not_taken_for_an_ablations(tmp_path):
    base = credit_records(tmp_path)
    write_record(tmp_path, base, "credit=terminal", 4, validation=1.0, accuracy=1.0, credit="terminal", updates=999)
    with pytest.raises(ValueError, match="seed4 holds a run of another configuration: choose another --out"):
        rows_of(tmp_path)


# ---- tables


def test_the_table_has_means_intervals_and_differences_paired_by_seed(tmp_path):
    credit_records(tmp_path)
    # Accuracies 0.5, 0.6, 0.7 and 0.6, 0.8, 1.0; differences 0.1, 0.2, 0.3; half an interval is 4.3027 s / sqrt(3).
    assert markdown(rows_of(tmp_path)).splitlines()[2:] == [
        "| credit | causal | 3 | 0.800 ± 0.248 | 0.600 ± 0.248 | - | 0.500 ± 0.000 | - | 10 ± 0 | yes | base |",
        "| credit | terminal | 3 | 0.700 ± 0.248 | 0.800 ± 0.497 | +0.200 ± 0.248 | 0.500 ± 0.000 | - | 20 ± 0 |  |  |",
    ]


def test_the_choice_is_made_on_validation_over_seeds_that_all_have(tmp_path):
    base = credit_records(tmp_path)
    write_record(tmp_path, base, "credit=terminal", 4, validation=1.0, accuracy=0.0, credit="terminal")
    assert [row.is_chosen for row in rows_of(tmp_path)] == [True, False]  # 0.8 against 0.7 over seeds 1 to 3
    write_record(tmp_path, base, "base", 4, validation=0.0, accuracy=1.0)
    assert [row.is_chosen for row in rows_of(tmp_path)] == [False, True]  # 0.6 against 0.775 over all


def test_what_comes_with_other_settings_is_not_chosen(tmp_path):
    base = Config(controls=(), abstain=False)
    write_ablation(tmp_path, base, "reward")
    write_record(tmp_path, base, "base", 1, validation=0.5, accuracy=0.5)
    write_record(tmp_path, base, "reward=frame_log_score", 1, validation=0.4, accuracy=0.5, reward="frame_log_score")
    whole = {"reward": "clip_log_score", "credit": "terminal"}
    write_record(tmp_path, base, "reward=clip_log_score", 1, validation=0.9, accuracy=0.9, **whole)
    assert {row.variant.value: row.is_chosen for row in rows_of(tmp_path)} == {
        "eq7": True, "frame_log_score": False, "clip_log_score": False,
    }  # fmt: skip


def test_the_base_is_chosen_in_a_tie_and_nothing_before_all_are_trained(tmp_path):
    base = Config(controls=(), abstain=False)
    write_ablation(tmp_path, base, "encoder")
    write_record(tmp_path, base, "base", 1, validation=0.5, accuracy=0.5, focus=None)
    rows = rows_of(tmp_path)
    assert [(row.variant.value, row.is_chosen) for row in rows] == [("sum", False), ("what_and_where", False)]
    network = dataclasses.replace(base.policy, encoder="sum")
    write_record(tmp_path, base, "encoder=sum", 1, validation=0.5, accuracy=0.9, policy=network)
    assert [row.is_chosen for row in rows_of(tmp_path)] == [False, True]


# ---- the command line


def test_the_tables_alone_are_rebuilt_from_the_records(tmp_path, capsys):
    credit_records(tmp_path)
    main(parse_as(Arguments, ["--out", str(tmp_path), "--only-table", "--source", "gone"]))
    assert capsys.readouterr().out.strip() == (tmp_path / "table.md").read_text().strip()
    assert (tmp_path / "table.csv").exists()


def test_the_command_line_takes_the_flags_of_training():
    flags = ["--seeds", "4", "5", "--factors", "credit", "eta", "--updates", "7", "--warmup-updates", "1"]
    arguments = parse_as(Arguments, [*flags, "--seed", "9", "--controls", "oracle"])
    assert (arguments.seeds, arguments.factors) == ((4, 5), ("credit", "eta"))
    expected = dataclasses.replace(PRESETS["small"], updates=7, warmup_updates=1, controls=(), seed=1)
    assert arguments.config == expected
    assert parse_as(Arguments, []).factors == tuple(FACTORS)
