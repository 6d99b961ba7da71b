"""What a run is told: refusals, presets, and the ways from the command line and to JSON."""

import dataclasses
import json
from pathlib import Path

import pytest
from agent_toys import marked_source
from glimpse_agents.learning.config import PRESETS, Config, parse_arguments, preset_for
from glimpse_agents.learning.policy import PolicyConfig

from glimpse_env import open_source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": 0}, "updates must be at least 1, got 0"),
        ({"epochs": 0.0}, "epochs must be positive, got 0.0"),
        ({"clips": 0}, "clips must be at least 1, got 0"),
        ({"validate_every": -5}, "validate_every must be at least 1, got -5"),
        ({"warmup_updates": -1}, "warmup_updates must not be negative, got -1"),
        ({"scorer_updates": -1}, "scorer_updates must not be negative, got -1"),
        ({"penalty": -1.0}, "penalty must not be negative, got -1.0"),
        ({"entropy_bonus": -0.5}, "entropy_bonus must not be negative, got -0.5"),
        (
            {"updates": 10, "warmup_updates": 8, "scorer_updates": 3},
            r"warmup_updates and scorer_updates must fit into updates, got 8 \+ 3 > 10",
        ),
        ({"rollouts": 1}, "rollouts must be at least 2 with baseline 'leave_one_out', got 1"),
        ({"rollouts": 0, "baseline": "none"}, "rollouts must be at least 1 with baseline 'none', got 0"),
        (
            {"abstain": True, "class_gradient": False},
            'when "no prediction" pays is learned by the gradient of drawn classes alone: leave class_gradient out',
        ),
        (
            {"baseline": "value", "abstain": True, "controls": ("random", "soft", "gumbel")},
            r"controls \['soft', 'gumbel'\] are learned by back-propagation, .* choose another baseline",
        ),
        ({"random_share": 1.0}, r"random_share must lie in \[0, 1\), got 1.0"),
        ({"random_share": -0.1}, r"random_share must lie in \[0, 1\), got -0.1"),
        (
            {"frames": 8, "window_seconds": 2.0},
            r"frames \(8\) and window_seconds \(2.0\) both set T: give one of them \(--frames None",
        ),
        ({"video_score": "best"}, "video_score must be one of .*'last16'.*, got 'best'"),
        ({"frames": 1}, "frames must be at least 2, one to choose in and one to look at, got 1"),
        ({"reward": "clip_log_score", "credit": "causal"}, "reward 'clip_log_score' .* needs credit 'terminal'"),
        (
            {"policy": PolicyConfig(glimpse_order="sequential"), "controls": ("random", "gumbel", "unlimited")},
            r"'sequential' is for m cells drawn by REINFORCE, and controls \['gumbel', 'unlimited'\] learn without",
        ),
        ({"controls": ("random", "corner")}, "controls must be among .*'oracle'.*, got 'corner'"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)


@pytest.mark.parametrize(("num_clips", "updates"), [(96, 30), (97, 31), (10, 4)])
def test_epochs_are_counted_in_updates(num_clips, updates):
    counted = Config(epochs=10, clips=32, warmup_updates=0).for_source(marked_source(num_clips))
    assert (counted.updates, counted.epochs) == (updates, None)
    assert counted.for_source(marked_source(5)) == counted


@pytest.mark.parametrize(
    ("asked", "trimmed", "untrimmed"), [(None, False, True), (True, True, True), (False, False, False)]
)
def test_abstention_is_for_untrimmed_clips_unless_asked_for(asked, trimmed, untrimmed):
    config = Config(abstain=asked)
    assert config.for_source(open_source("synthetic")).abstain is trimmed
    assert config.for_source(open_source("synthetic-untrimmed")).abstain is untrimmed


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [({}, False), ({"abstain": True}, True), ({"class_gradient": True}, True), ({"class_gradient": False}, False)],
)
def test_classes_are_drawn_with_abstention_or_where_asked_for(changes, drawn):
    assert Config(**changes).draws_classes is drawn
    assert Config(**changes).for_source(marked_source(4)).draws_classes is drawn


def test_what_untrimmed_clips_decide_is_checked_too():
    source = open_source("synthetic-untrimmed")
    with pytest.raises(ValueError, match="leave class_gradient out, or set abstain to False"):
        Config(class_gradient=False).for_source(source)


@pytest.mark.parametrize("baseline", ["none", "value"])
def test_one_rollout_is_enough_for_a_baseline_of_its_own(baseline):
    assert Config(rollouts=1, baseline=baseline).rollouts == 1


def test_the_policy_is_trained_before_its_controls():
    assert Config(controls=("mean", "random")).arms == ("learned", "mean", "random")


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_goes_through_json_and_back(name):
    config = dataclasses.replace(PRESETS[name], controls=("all", "oracle"), frames=7, policy=PolicyConfig(layers=2))
    again = Config.from_json(json.loads(json.dumps(config.to_json())))
    assert again == config


def test_presets_know_their_names():
    assert {name: preset.preset for name, preset in PRESETS.items()} == {name: name for name in PRESETS}


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match=r"preset must be one of .*'paper'.*, got 'big'"):
        preset_for("synthetic", "big")


def test_the_papers_preset_is_the_papers():
    paper = PRESETS["paper"]
    assert (paper.policy.encoder, paper.policy.layers, paper.policy.hidden_size) == ("sum", 3, 512)
    assert (paper.policy.dropout, paper.weight_decay, paper.credit, paper.reward) == (0.5, 1e-5, "terminal", "eq7")


# ---- the command line


@pytest.mark.parametrize(
    ("arguments", "preset", "source"),
    [
        ([], "small", "synthetic"),
        (["--source", "stores/mine"], "features", "stores/mine"),
        (["--source=stores/mine"], "features", "stores/mine"),
        (["--source", "stores/mine", "--preset", "paper"], "paper", "stores/mine"),
        (["--preset", "features"], "features", "synthetic"),
    ],
)
def test_the_source_chooses_the_preset_unless_it_is_given(arguments, preset, source):
    config = parse_arguments(arguments).config
    assert config == dataclasses.replace(PRESETS[preset], source=source)


def test_flags_override_the_preset():
    arguments = ["--preset", "paper", "--updates", "7", "--glimpses", "1", "--seed", "3", "--mirror", "--frames", "6"]
    arguments += ["--policy.hidden-size", "9"]
    config = parse_arguments(arguments).config
    paper = PRESETS["paper"]
    expected = dataclasses.replace(
        paper,
        updates=7,
        glimpses=1,
        policy=dataclasses.replace(paper.policy, hidden_size=9),
        seed=3,
        mirror=True,
        frames=6,
    )
    assert config == expected


@pytest.mark.parametrize("controls", [(), ("random",), ("random", "centre", "mean", "all", "oracle")])
def test_controls_are_listed_after_their_flag(controls):
    assert parse_arguments(["--controls", *controls, "--seed", "2"]).controls == controls


def test_windows_take_the_place_of_a_presets_frames():
    config = parse_arguments(["--preset", "paper", "--frames", "None", "--window-seconds", "2.5"]).config
    assert (config.frames, config.window_seconds, config.stride_seconds) == (None, 2.5, None)


@pytest.mark.parametrize("name", ["out", "resume", "evaluate"])
def test_folders_are_no_part_of_the_configuration(name):
    arguments = parse_arguments([f"--{name}", "runs/a"])
    assert getattr(arguments, name) == Path("runs/a")
    assert arguments.config == Config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "big"], "argument --preset: invalid choice: 'big'"),
        (["--controls", "corner"], "corner"),
        (["--glimpses", "many"], "many"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_the_command_line_names_what_it_does_not_know(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
