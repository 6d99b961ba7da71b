"""Profiles of training: their parts, their tables, and the command line."""

import json
import re
import subprocess
import sys

import numpy as np
import profile_training as command
import pytest
import torch
from agent_toys import marked_source, tiny_config
from glimpse_agents import reinforce
from glimpse_agents.cost.clocks import clocks
from glimpse_agents.playing import rollout
from profiler import iteration, size_sweep
from profiler.costs import Cost, rollout_costs, update_costs
from profiler.iteration import CLASSES, profile_training, random_features
from profiler.limits import Limits, measure_limits
from profiler.size_sweep import Point, straight_line, sweep_table

LIMITS = Limits(flops_per_second=1e10, bytes_per_second=1e9)
TINY = "--hidden-size 8 --clips 2 --rollouts 2 --iterations 1 --synthetic-features 3 4 3 --glimpses 2"


@pytest.fixture(scope="module")
def profile():
    return profile_training(tiny_config(), marked_source(12), iterations=2, limits=LIMITS)


@pytest.fixture
def small_bank(monkeypatch):
    monkeypatch.setattr(iteration, "BANK_BYTES", 0)
    monkeypatch.setattr(iteration, "measure_limits", lambda device: LIMITS)


def test_profile_has_all_parts(profile):
    names = {phase: [part.name for part in profile.parts if part.phase == phase] for phase in ("rollout", "update")}
    assert names["rollout"] == list(rollout_costs(profile.sizes))
    assert names["update"] == [*update_costs(profile.sizes), "rest of the update"]
    assert all(part.seconds > 0 for part in profile.parts if part.name != "rest of the update")
    update = sum(part.seconds for part in profile.parts if part.phase == "update")
    assert update == pytest.approx(profile.update_seconds)
    assert 0 < profile.environment_share < 1
    assert profile.update_over_bare == profile.update_seconds / profile.bare_seconds
    assert profile.clips_per_second == 3 / (profile.rollout_seconds + profile.update_seconds)


def test_table_shows_all_parts(profile):
    lines = command.table(profile).splitlines()
    for part in profile.parts:
        assert any(line.startswith(part.phase) and part.name in line for line in lines), part
    assert "B = 3, R = 2, T = 4, 3 x 3 x 4 (glimpsed in view), m = 2" in lines[0]
    assert "matrix product 10 GFLOP/s, copy 1.0 GB/s" in lines[1]


def test_profiling_removes_its_clocks(profile):
    assert reinforce.collect_rollout is rollout.collect_rollout
    assert "metered" not in marked_source(3).read_cubes.__qualname__


@pytest.mark.parametrize(
    ("cost", "bound", "seconds"),
    [(Cost(1e10, 1e6), "compute", 1.0), (Cost(1e7, 1e9), "memory", 1.0), (Cost(0, 5e8), "memory", 0.5)],
)
def test_slower_limit_bounds_a_cost(cost, bound, seconds):
    assert LIMITS.bound(cost) == bound
    assert LIMITS.seconds(cost) == seconds


def test_limits_are_measured():
    limits = measure_limits(torch.device("cpu"), size=64, copied=2**16)
    assert limits.flops_per_second > 1e8
    assert limits.bytes_per_second > 1e8
    assert LIMITS.best(limits).bytes_per_second == max(1e9, limits.bytes_per_second)


def test_time_of_an_inner_clock_counts_once(monkeypatch):
    ticks = iter([0.0, 1.0, 4.0, 10.0])  # outer begins, inner begins, inner ends, outer ends
    monkeypatch.setattr("glimpse_agents.cost.clocks.now", lambda device: next(ticks))

    class Work:
        def outer(self):
            return self.inner()

        def inner(self):
            return 7

    meter, work = clocks(torch.device("cpu")), Work()
    with meter.on([("outer", work, "outer"), ("inner", work, "inner")]):
        assert work.outer() == 7
    assert meter.spent == {"inner": 3.0, "outer": 7.0}
    assert not vars(work)


def test_straight_lines_through_a_sweep():
    assert straight_line([1, 2, 5], [0.6, 0.7, 1.0]) == pytest.approx((0.5, 0.1))
    points = [
        Point(varied="T", size=size, seconds_per_clip=0.5 + 0.1 * size, flops_per_clip=2e9 * size, rollout_share=0.5)
        for size in (1, 2, 5)
    ]
    lines = sweep_table(points).splitlines()
    assert lines[1].split() == ["T", "1", "1.67", "600.0", "2.000", "3.3", "50%"]
    assert lines[4].strip().startswith("ms per clip = 500.0 + 100.000 T; GFLOP per clip = ")
    assert lines[4].endswith("+ 2.00000 T")


def test_random_features_do_not_fit_into_caches(monkeypatch):
    monkeypatch.setattr(iteration, "BANK_BYTES", 10_000)
    source = random_features(3, 4, 5, 2)
    assert source.features.dtype == np.float16
    assert source.features.shape == (27, 5, 3, 3, 4)
    assert random_features(3, 4, 5, 40).num_clips == 40


def test_command_profiles_random_features(small_bank, tmp_path, capsys):
    path = tmp_path / "profile.json"
    command.main([*TINY.split(), "--preset", "paper", "--json", str(path)])
    assert "times the bare LSTM and heads" in capsys.readouterr().out
    profile = json.loads(path.read_text())
    sizes, policy = profile["sizes"], profile["sizes"]["policy"]
    assert [sizes[name] for name in ("grid_size", "depth", "frames", "outputs")] == [3, 4, 3, CLASSES]
    assert (policy["encoder"], policy["layers"], policy["hidden_size"]) == ("sum", 3, 8)
    assert profile["clips_per_second"] == 2 / (profile["rollout_seconds"] + profile["update_seconds"])


def test_sweep_changes_one_size_at_a_time(small_bank, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(size_sweep, "SWEPT_FRAMES", (2, 4))
    monkeypatch.setattr(size_sweep, "SWEPT_GRIDS", (2, 3))
    monkeypatch.setattr(size_sweep, "SWEPT_GLIMPSES", (1, 9, 10))
    path = tmp_path / "sweep.json"
    command.main([*TINY.split(), "--sweep", "--json", str(path)])
    points = [(point["varied"], point["size"]) for point in json.loads(path.read_text())]
    assert points == [("T", 2), ("T", 4), ("K*K", 4), ("K*K", 9), ("m", 1), ("m", 9)]
    assert capsys.readouterr().out.count("ms per clip =") == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--iterations 0", "iterations must be at least 1, got 0"),
        ("--sweep", "--sweep changes sizes, so it needs random features: give --synthetic-features K D T"),
        ("--synthetic-features 3", "--synthetic-features"),
    ],
)
def test_invalid_flags_are_named(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(flags.split())
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ("--models random", ValueError, "only reinforce can be profiled, got --models random: leave out --models"),
        ("--json nowhere/profile.json", FileNotFoundError, "nowhere/profile.json: there is no folder nowhere"),
        ("--synthetic-features 3 4 1", ValueError, "need K >= 1, D >= 1 and T >= 2, got 3 4 1"),
        ("--source nowhere", FileNotFoundError, "nowhere"),
        ("--device abacus", ValueError, "unknown device 'abacus'"),
        ("--sweep --synthetic-features 2 4 3 --glimpses 1 --device abacus", ValueError, "unknown device 'abacus'"),
        ("--sweep --synthetic-features 2 4 3", ValueError, "5 glimpses do not fit 2 x 2 cells: set"),
    ],
)
def test_configurations_that_cannot_be_profiled_are_refused(flags, error, message):
    with pytest.raises(error, match=message):
        command.main(flags.split())


def test_too_few_iterations_are_refused():
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        profile_training(tiny_config(), marked_source(12), iterations=0)


def test_script_ends_with_one_line_of_error():
    done = subprocess.run(
        [sys.executable, command.__file__, "--device", "abacus"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(r"error: unknown device 'abacus'.*\n", done.stderr)
