"""Runs that differ in their seed alone, put together."""

import copy
import json

import numpy as np
import pytest
from glimpse_agents.tables.statistics import mean_and_interval, read_runs, table

RESULT = {
    "accuracy": {"learned": 0.5, "random": 0.4},
    "vote_accuracy": {"learned": 0.5, "random": 0.3},
    "focus": {"learned": 0.9},
    "focus_per_look": {"learned": 0.2, "random": 0.1},
    "test_clips": 10,
    "train_seconds": 1.0,
}


def write_run(folder, *, seed, accuracy=0.5, glimpses=1, **fields):
    folder.mkdir()
    result = copy.deepcopy(RESULT)
    result["accuracy"]["learned"] = accuracy
    (folder / "config.json").write_text(json.dumps({"config": {"seed": seed, "glimpses": glimpses} | fields}))
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_interval_is_students():
    # mean 0.5, standard deviation 0.1, standard error 0.1 / sqrt(3) = 0.0577; t(0.975, 2) = 4.3027
    mean, half = mean_and_interval([0.4, 0.5, 0.6])
    assert mean == pytest.approx(0.5)
    assert half == pytest.approx(0.0577350 * 4.302653, rel=1e-5)


def test_values_of_a_group_count_together():
    # of groups of equal size, the interval is that of their means
    mean, half = mean_and_interval([0.3, 0.5, 0.5, 0.5, 0.5, 0.7], [7, 7, 0, 0, 1, 1])
    assert (mean, half) == pytest.approx(mean_and_interval([0.4, 0.5, 0.6]))
    assert mean_and_interval([1.0, 2.0], [0, 0]) == (1.5, np.inf)


def test_differences_are_paired_by_seed(tmp_path):
    runs = [write_run(tmp_path / str(seed), seed=seed, accuracy=0.5 + seed / 100) for seed in (1, 2, 3)]
    learned, random = table(read_runs(runs)).splitlines()[2:]
    # differences 0.11, 0.12, 0.13: mean 0.12, half width 0.01 / sqrt(3) * 4.3027 = 0.025
    assert learned == "| learned | 0.520 ± 0.025 | +0.120 ± 0.025 | 0.500 ± 0.000 | 0.900 ± 0.000 | 0.200 ± 0.000 |"
    assert random.startswith("| random | 0.400 ± 0.000 | - | 0.300 ± 0.000 | - |")


def test_a_single_run_has_no_interval(tmp_path):
    run = write_run(tmp_path / "one", seed=1)
    assert "| 0.500 | +0.100 |" in table(read_runs([run]))


def test_runs_of_before_and_after_a_field_was_added_are_alike(tmp_path):
    before, after = (
        write_run(tmp_path / "one", seed=1),
        write_run(tmp_path / "two", seed=2, window_seconds=None, video_score="mean"),
    )
    assert len(read_runs([before, after])) == len(read_runs([after, before])) == 2


def test_unlike_runs_are_refused(tmp_path):
    one = write_run(tmp_path / "one", seed=1)
    with pytest.raises(ValueError, match=r"differs from .* in glimpses"):
        read_runs([one, write_run(tmp_path / "five", seed=2, glimpses=5)])
    slid = write_run(tmp_path / "slid", seed=2, window_seconds=2.0)
    for runs in ([one, slid], [slid, one]):
        with pytest.raises(ValueError, match=r"differs from .* in window_seconds"):
            read_runs(runs)
    voted = write_run(tmp_path / "voted", seed=2, video_score="mode")
    with pytest.raises(ValueError, match=r"differs from .* in video_score"):
        read_runs([one, voted])
    with pytest.raises(ValueError, match="two runs share a seed"):
        read_runs([one, write_run(tmp_path / "again", seed=1)])
    with pytest.raises(ValueError, match="at least one"):
        read_runs([])
    with pytest.raises(FileNotFoundError, match="not the folder of such a run"):
        read_runs([tmp_path])
