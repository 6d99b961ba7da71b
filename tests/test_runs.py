"""A run's folder: files that are whole or not there, and a log that forgets what a kill undid."""

import json
import pickle

import pytest
import torch
from glimpse_agents.runs.folder import Checkpoints, MetricsLog, provenance, read_json, write_atomically, write_json
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# ---- files


def test_a_file_is_replaced_whole_and_nothing_stays_beside_it(tmp_path):
    path = tmp_path / "new" / "result.bin"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.bin"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.bin"
    write_atomically(path, b"old")

    def fail(file):
        file.write(b"half")
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")  # what the failure left beside it is in nobody's way
    assert path.read_bytes() == b"new"


def test_json_comes_back(tmp_path):
    value = {"accuracy": {"learned": 0.1}, "names": ["a", "ü"], "none": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_a_folder_without_the_file_is_not_a_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no config.json in {tmp_path}: it is not the folder of such a run"):
        read_json(tmp_path / "config.json")


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"config": ')
    with pytest.raises(ValueError, match=r"config.json is not JSON \(Expecting value.*\): restore it or train again"):
        read_json(tmp_path / "config.json")


def test_provenance_names_versions_and_commit():
    told = provenance()
    assert {"videoglimpse", "torch", "gymnasium", "numpy", "python"} == set(told["versions"])
    assert torch.__version__.startswith(told["versions"]["torch"])  # which may name its build besides
    assert told["threads"] == torch.get_num_threads()
    assert told["git_commit"] is None or len(told["git_commit"].rstrip("+")) == 40
    json.dumps(told)


# ---- checkpoints

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2, requires_grad=True)}  # one is not contiguous


def test_the_best_weights_come_back(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_best(WEIGHTS)
    loaded = checkpoints.load_best()
    assert loaded.keys() == WEIGHTS.keys()
    assert all(torch.equal(loaded[name], WEIGHTS[name]) for name in WEIGHTS)


def test_the_same_weights_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        Checkpoints(tmp_path / name).save_best(WEIGHTS)
    assert (tmp_path / "one" / "best.safetensors").read_bytes() == (tmp_path / "two" / "best.safetensors").read_bytes()


def test_no_best_weights_before_validation(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no best.safetensors in {tmp_path}: the run has not validated yet"):
        Checkpoints(tmp_path).load_best()


def test_the_state_to_resume_from_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load_last() is None
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    checkpoints.save_last({"policy": {"w": weight.detach()}, "optimizer": optimizer.state_dict(), "update": 7})
    state = checkpoints.load_last()
    assert state["update"] == 7
    assert torch.equal(state["policy"]["w"], weight.detach())
    again = torch.optim.Adam([weight], lr=0.1)
    again.load_state_dict(state["optimizer"])
    assert torch.equal(again.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg"])


def test_a_write_cut_short_is_not_resumed_from(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_last({"update": 1})
    whole = checkpoints.last.read_bytes()
    (tmp_path / "last.pt.partial").write_bytes(whole[: len(whole) // 2])  # as a kill in the next write leaves it
    assert checkpoints.load_last() == {"update": 1}
    checkpoints.save_last({"update": 2})
    assert checkpoints.load_last() == {"update": 2}


class Thief:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return (print, ("stolen",))


def test_a_checkpoint_runs_no_code(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_last({"update": Thief()})
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        checkpoints.load_last()
    assert "stolen" not in capsys.readouterr().out


# ---- metrics


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events_of(folder):
    """Return (step, value) of what TensorBoard shows under train/loss."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars("train/loss")]


def write_log(folder, begin, updates, value):
    log = MetricsLog(folder, begin)
    for update in updates:
        log.write(update, {"train/loss": value})
    log.close()


def test_scalars_are_lines_and_events(tmp_path):
    write_log(tmp_path / "run", 0, [1, 2], 0.5)
    assert lines_of(tmp_path / "run") == [{"update": 1, "train/loss": 0.5}, {"update": 2, "train/loss": 0.5}]
    assert events_of(tmp_path / "run") == [(1, 0.5), (2, 0.5)]


def test_going_on_drops_what_came_after_the_checkpoint(tmp_path):
    write_log(tmp_path, 0, [10, 20, 30], 0.5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 20, "train/lo')  # cut short by a kill
    write_log(tmp_path, 20, [30, 40], 0.25)
    assert [(line["update"], line["train/loss"]) for line in lines_of(tmp_path)] == [
        (10, 0.5), (20, 0.5), (30, 0.25), (40, 0.25),
    ]  # fmt: skip
    assert events_of(tmp_path) == [(10, 0.5), (20, 0.5), (30, 0.25), (40, 0.25)]


def test_beginning_again_drops_everything(tmp_path):
    write_log(tmp_path, 0, [10], 0.5)
    write_log(tmp_path, 0, [10], 0.25)
    assert [line["train/loss"] for line in lines_of(tmp_path)] == [0.25]
