"""Configuration: presets, JSON, settings by name, and the flags of the command line."""

import json
import re
import sys
from pathlib import Path

import docstring_parser
import pytest
from agent_toys import marked_source, tiny_config, write_marked_store
from glimpse_agents.learning.config import BLOCKS, PATHS, Config
from glimpse_agents.learning.presets import PRESETS, preset_for
from glimpse_agents.reinforce import Output, parse_arguments, train
from glimpse_agents.runs.command import CommandLine

from glimpse_env import open_source

# ---- values


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updates": 0}, "updates must be at least 1, got 0"),
        ({"epochs": 0.0}, "epochs must be above 0, got 0.0"),
        ({"clips": 0}, "clips must be at least 1, got 0"),
        ({"validate_every": -5}, "validate_every must be at least 1, got -5"),
        ({"rollouts": 1}, "rollouts must be at least 2 with baseline 'leave_one_out', got 1"),
        ({"abstain": True, "class_gradient": False}, "abstain=True requires sampled classes: unset class_gradient"),
        (
            {"matching": "segment", "class_gradient": False},
            "matching='segment' requires sampled classes: unset class_gradient, or set matching='frame'",
        ),
        (
            {"matching": "segment", "baseline": "value"},
            "with segment_share 0.4 frames count first: set segment_share 1",
        ),
        (
            {"model": "unlimited", "look_cost": 0.1, "baseline": "value"},
            "looks that cost are free at first: set another baseline, or look_cost 0",
        ),
        ({"segment_share": 0.0}, r"segment_share must lie in \(0, 1\], got 0.0"),
        ({"matching": "clip"}, "matching must be one of 'frame', 'segment', got 'clip'"),
        ({"frames": 8, "window_seconds": 2.0}, r"frames \(8\) and window_seconds \(2.0\) both set T: give one of them"),
        ({"frames": 1}, "frames must be at least 2, one to choose in and one to look at, got 1"),
        ({"reward": "clip_log_score", "credit": "causal"}, "'clip_log_score' .* needs credit 'terminal'"),
        ({"model": "gumbel", "glimpse_order": "sequential"}, "'sequential' needs m cells drawn by REINFORCE"),
        ({"model": "corner"}, "model must be one of .*'oracle'.*, got 'corner'"),
        ({"nothing": 1}, "no setting 'nothing': it must be one of abstain, "),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Config().with_settings(settings)


def number_fields():
    blocks = {kind for inner in BLOCKS.values() for kind in inner.values()}
    return sorted(
        (name, hint)
        for kind in blocks
        for name, hint in kind.__annotations__.items()
        if "int" in hint or "float" in hint
    )


@pytest.mark.parametrize(("name", "hint"), number_fields())
def test_every_number_refuses_a_value_without_meaning_by_its_name(name, hint):
    for value in (float("nan"), float("inf"), *(() if name == "repulsion" else (-1,))):
        with pytest.raises(ValueError, match=rf"{name} must .*, got {value}"):
            Config().with_settings({name: value})


def test_a_setting_has_one_name_in_all_blocks():
    names = [path[-1] for path in PATHS.values()]
    fields = [name for kind in {Config, *BLOCKS, *(k for inner in BLOCKS.values() for k in inner.values())}
              for name in kind.__annotations__ if name not in BLOCKS.get(kind, {})]  # fmt: skip
    assert sorted(names) == sorted(fields)
    assert len(set(names)) == len(names)


def test_settings_are_read_and_changed_by_their_name_alone():
    config = Config().with_settings({"glimpses": 3, "projection_size": 4, "random_share": 0.1, "model": "soft"})
    assert config.task.glimpses == config.setting("glimpses") == 3
    assert config.policy.advanced.projection_size == config.setting("projection_size") == 4
    assert config.training.advanced.random_share == 0.1
    assert config.model == config.setting("model") == "soft"


@pytest.mark.parametrize(("num_clips", "updates"), [(96, 30), (97, 31), (10, 4)])
def test_epochs_become_updates_and_the_warmup_is_a_share_of_them(num_clips, updates):
    config = Config().with_settings({"epochs": 10, "clips": 32, "warmup_share": 0.5}).for_source(
        marked_source(num_clips)
    )  # fmt: skip
    assert (config.training.updates, config.training.epochs) == (updates, None)
    assert config.training.warmup_updates == round(updates / 2)
    assert config.for_source(marked_source(5)) == config


@pytest.mark.parametrize(
    ("asked", "trimmed", "untrimmed"), [(None, False, True), (True, True, True), (False, False, False)]
)
def test_only_untrimmed_clips_abstain_by_default(asked, trimmed, untrimmed):
    config = Config().with_settings({"abstain": asked})
    assert config.for_source(open_source("synthetic")).task.abstain is trimmed
    assert config.for_source(open_source("synthetic-untrimmed")).task.abstain is untrimmed


@pytest.mark.parametrize(
    ("settings", "samples"),
    [
        ({}, False), ({"abstain": True}, True), ({"matching": "segment"}, True), ({"class_gradient": True}, True),
        ({"class_gradient": False}, False),
    ],
)  # fmt: skip
def test_classes_are_sampled_with_abstention_for_segments_or_on_demand(settings, samples):
    config = Config().with_settings(settings)
    assert config.samples_classes is samples
    assert config.for_source(marked_source(4)).samples_classes is samples


@pytest.mark.parametrize(
    ("settings", "measure"),
    [
        ({}, "accuracy"), ({"matching": "segment"}, "reward"), ({"chosen_by": "reward"}, "reward"),
        ({"matching": "segment", "chosen_by": "log_score"}, "log_score"), ({"frame_cost": 0.1}, "reward"),
        ({"model": "unlimited", "look_cost": 0.1}, "reward"), ({"model": "reinforce", "look_cost": 0.1}, "accuracy"),
    ],
)  # fmt: skip
def test_a_checkpoint_is_chosen_by_accuracy_or_by_the_reward_for_segments_and_costs(settings, measure):
    assert Config().with_settings(settings).chosen_by == measure


@pytest.mark.parametrize(
    ("settings", "measure"),
    [
        ({}, "log_score"), ({"abstain": True}, "mean_average_precision"), ({"frame_cost": 0.1}, "reward"),
        ({"frame_cost": 0.1, "chosen_by": "accuracy"}, "accuracy"),
        ({"model": "unlimited", "look_cost": 0.1}, "reward"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_few_clips_is_chosen_by_its_log_score_unless_the_reward_counts(settings, measure):
    assert PRESETS["attended"].with_settings(settings).chosen_by == measure


def test_values_that_follow_from_the_source_are_checked_too():
    source = open_source("synthetic-untrimmed")
    with pytest.raises(ValueError, match="unset class_gradient, or set abstain=False"):
        Config().with_settings({"class_gradient": False}).for_source(source)


@pytest.mark.parametrize("name", PRESETS)
def test_json_holds_the_whole_configuration(name):
    config = PRESETS[name].with_settings({"model": "oracle", "frames": 7, "layers": 2})
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("block", [(), ("policy",), ("training", "advanced")])
def test_json_of_another_version_is_refused_by_the_names_that_differ(block):
    fields = Config().to_json()
    inner = fields
    for name in block:
        inner = inner[name]
    inner["colour"] = "red"
    with pytest.raises(ValueError, match="the configuration differs from this version's in colour"):
        Config.from_json(fields)


def test_a_memory_holds_only_the_cells_looked_at():
    with pytest.raises(ValueError, match=r"'memory' holds what was looked at, .* set observation 'glimpsed'"):
        Config().with_settings({"scorer": "memory", "observation": "cube"})


@pytest.mark.parametrize("other", ["softmax", "uniform"])
def test_attended_weights_need_scores_of_single_slices(other):
    with pytest.raises(ValueError, match="slice_weights 'attended' needs scores of single slices, and scorer 'grid'"):
        Config().with_settings({"slice_weights": "attended"})
    Config().with_settings({"slice_weights": other})


def test_every_preset_has_its_name():
    assert {name: preset.preset for name, preset in PRESETS.items()} == {name: name for name in PRESETS}


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="preset must be one of small, features, attended, paper, got 'big'"):
        preset_for("synthetic", "big")


def test_the_preset_paper_has_the_papers_values():
    paper = PRESETS["paper"]
    assert (paper.policy.encoder, paper.policy.layers, paper.policy.hidden_size) == ("sum", 3, 512)
    assert (paper.policy.dropout, paper.training.credit, paper.training.reward) == (0.5, "terminal", "eq7")
    assert paper.samples_classes  # eq. 6's action has two parts, l and p
    assert paper.training.weight_decay == paper.training.scorer_weight_decay == 1e-5


# ---- flags


@pytest.mark.parametrize(
    ("arguments", "preset", "source"),
    [
        ([], "small", "synthetic"),
        (["--source", "stores/mine"], "attended", "stores/mine"),
        (["--source=wall:mine.json"], "attended", "wall:mine.json"),
        (["--source", "stores/mine", "--preset", "paper"], "paper", "stores/mine"),
        (["--preset", "features"], "features", "synthetic"),
    ],
)
def test_the_source_chooses_the_preset_by_default(arguments, preset, source):
    assert parse_arguments(arguments).config == PRESETS[preset].with_settings({"source": source})


def test_flags_replace_values_of_the_preset():
    arguments = "--preset paper --updates 7 --glimpses 1 --seed 3 --mirror --frames 6 --hidden-size 9"
    assert parse_arguments(arguments.split()).config == PRESETS["paper"].with_settings(
        {"updates": 7, "glimpses": 1, "seed": 3, "mirror": True, "frames": 6, "hidden_size": 9}
    )


def test_ten_updates_are_accepted_and_shorten_the_warmup():
    training = parse_arguments(["--updates", "10"]).config.training
    assert (training.updates, training.warmup_updates) == (10, 2)


def test_epochs_are_accepted_with_any_warmup():
    config = parse_arguments(["--preset", "features", "--epochs", "100", "--warmup-share", "0.9"]).config
    trained = config.for_source(marked_source(64)).training
    assert (trained.updates, trained.warmup_updates) == (200, 180)


@pytest.mark.parametrize("models", [("reinforce",), ("random", "soft"), ("reinforce", "mean", "oracle")])
def test_models_are_listed_after_their_flag(models):
    line = parse_arguments(["--models", *models, "--seed", "2"])
    assert line.models == models
    assert (line.config.model, line.config.training.seed) == (models[0], 2)


def test_windows_can_replace_the_frames_of_a_preset():
    task = parse_arguments(["--preset", "paper", "--frames", "None", "--window-seconds", "2.5"]).config.task
    assert (task.frames, task.window_seconds, task.advanced.stride_seconds) == (None, 2.5, None)


@pytest.mark.parametrize("name", ["out", "resume", "evaluate"])
def test_folders_are_not_part_of_the_configuration(name):
    line = parse_arguments([f"--{name}", "runs/a"])
    assert getattr(line.output, name) == Path("runs/a")
    assert line.config == Config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--models corner", "corner"),
        ("--glimpses many", "many"),
        ("--colour red", "--colour"),
        ("--learning-rate -1", "learning_rate must be above 0, got -1.0"),
        ("--max-grad-norm -1", "max_grad_norm must be above 0, got -1.0"),
        ("--max-grad-norm 0", "max_grad_norm must be above 0, got 0.0"),
        ("--weight-decay -1e-5", "weight_decay must be at least 0, got -1e-05"),
        ("--epochs nan", "epochs must be a finite number, got nan"),
        ("--penalty nan", "penalty must be a finite number, got nan"),
        ("--seed -1", "seed must be at least 0, got -1"),
        ("--models", "--models names no model"),
        ("--models random random", "--models must name each model once, got random random"),
    ],
)
def test_a_wrong_flag_is_shown_with_the_reason(arguments, message, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as stop:
        parse_arguments(arguments.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--preset big", "--preset must be one of small, features, attended, paper, got 'big'"),
        ("--resume a --evaluate b", "--resume and --evaluate are two commands: give one of them"),
        ("--sampled", "--sampled requires --evaluate RUN"),
        ("--resume a --glimpses 7 --seed=9", "--glimpses --seed cannot be used with --resume, .* leave out all flags"),
        ("--resume a --no-mirror --models random", "--no-mirror --models cannot be used with --resume"),
        ("--resume a --out b", "--out cannot be used with --resume"),
        ("--evaluate a --updates 3", "--updates cannot be used with --evaluate"),
    ],
)
def test_flags_that_cannot_apply_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(arguments.split())


# ---- the help


def help_of_reinforce(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    return capsys.readouterr().out


def test_the_help_shows_groups_and_few_flags_outside_the_advanced_ones(capsys, monkeypatch):
    flags, group = {}, None
    for line in help_of_reinforce(capsys, monkeypatch).splitlines():
        if title := re.match(r" ([a-z.]+)( options)? *$", line):
            group = title[1]
        elif flag := re.match(r"  (?:-h, )?(--[a-z][\w-]+)", line):
            flags.setdefault(group, []).append(flag[1])
    blocks = [name for block in ("task", "policy", "training") for name in (block, f"{block}.advanced")]
    assert list(flags) == ["options", *blocks, "output"]
    simple = [flag for name, own in flags.items() if "advanced" not in name for flag in own]
    assert {"--help", "--models", "--config", "--source", "--updates", "--resume"} < set(simple)
    assert len(simple) <= 35
    total = sum(len(own) for own in flags.values())
    assert total == len(PATHS) + len(Output.__annotations__) + 2  # --help, --config; --models is --model


@pytest.mark.parametrize("kind", [CommandLine, Output, *(k for inner in BLOCKS.values() for k in inner.values())])
def test_every_help_text_is_a_sentence(kind):
    texts = {entry.arg_name: entry.description for entry in docstring_parser.parse_from_object(kind).params}
    assert set(texts) >= set(kind.__annotations__) - {"task", "policy", "training", "advanced", "output"}
    for name, text in texts.items():
        assert re.match(r'[A-Z"]', text), name
        assert text.endswith("."), name
    assert kind.__doc__[0].isupper()
    assert kind.__doc__.rstrip().endswith(".")


# ---- the configuration of a run as defaults


def test_the_configuration_of_a_run_gives_the_defaults(tmp_path):
    store = write_marked_store(tmp_path / "store")
    config = tiny_config(source=str(store), model="centre", seed=4)
    train(config, tmp_path / "run", test=False)
    expected = config.with_settings({"abstain": False})
    for path in (tmp_path / "run", tmp_path / "run" / "config.json"):
        line = parse_arguments(["--config", str(path)])
        assert line.config == expected
        assert line.models == ("centre",)
    line = parse_arguments(["--config", str(path), "--models", "soft", "max", "--seed", "5", "--hidden-size", "9"])
    assert line.models == ("soft", "max")
    assert line.config == expected.with_settings({"model": "soft", "seed": 5, "hidden_size": 9})


def test_a_configuration_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no run in {tmp_path} \(no config.json\)"):
        parse_arguments(["--config", str(tmp_path)])


def test_a_configuration_and_a_preset_are_refused_together(tmp_path):
    with pytest.raises(ValueError, match="--config and --preset both set the defaults: give one of them"):
        parse_arguments(["--config", str(tmp_path), "--preset", "paper"])


def test_the_command_line_of_the_process_is_read_by_default(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["reinforce.py", "--seed", "7"])
    assert parse_arguments().config.training.seed == 7
