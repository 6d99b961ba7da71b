"""The folder of a run: whole files, a lock, refusals in one line, a log without lost updates, and progress."""

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from agent_toys import marked_splits, tiny_config
from glimpse_agents.playing.envs import SourceRecord
from glimpse_agents.reinforce import train
from glimpse_agents.runs import jobs
from glimpse_agents.runs.files import read_json, write_file, write_json
from glimpse_agents.runs.folder import FORMAT, MetricsLog, RunFolder, find_runs
from glimpse_agents.runs.progress import Progress, format_seconds
from glimpse_agents.runs.provenance import provenance
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.event_file_writer import AtomicCounter

from glimpse_env.files import write_atomically

# ---- files


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "result.bin"
    write_file(path, b"first")
    write_file(path, "second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.bin"]


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"accuracy": {"reinforce": 0.1}, "names": ["a", "ü"], "none": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no config.json in {tmp_path}"):
        read_json(tmp_path / "config.json")


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"config": ')
    with pytest.raises(ValueError, match=r"config.json is not JSON \(Expecting value.*\): restore it, or train again"):
        read_json(tmp_path / "config.json")


def test_provenance_has_versions_and_the_commit():
    found = provenance()
    assert {"videoglimpse", "torch", "gymnasium", "numpy", "python"} == set(found["versions"])
    assert torch.__version__.startswith(found["versions"]["torch"])  # which may add the build
    assert found["threads"] == torch.get_num_threads()
    assert found["git_commit"] is None or len(found["git_commit"].rstrip("+")) == 40
    json.dumps(found)


# ---- the lock

HOLD = """
import sys, time
from pathlib import Path
from glimpse_agents.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    config, path = tiny_config(), tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=f"^another process is training into {path}: wait for it, or choose"):
            train(config, path, sources=marked_splits())
        assert not (path / "config.json").exists()
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
    assert (path / "lock").exists()
    assert train(config, path, sources=marked_splits()).test is not None


def test_the_lock_ends_with_the_block(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), RunFolder(tmp_path).lock():
            1 / 0  # noqa: B018


def test_default_folders_of_one_second_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs.time, "strftime", lambda _: "20260801-120000")
    config = tiny_config(source="stores/mine", seed=3)
    folders = [jobs.default_folder(config) for _ in range(3)]
    names = ["mine-seed3-20260801-120000", "mine-seed3-20260801-120000-2", "mine-seed3-20260801-120000-3"]
    assert [str(folder) for folder in folders] == [f"runs/{name}" for name in names]
    assert all(folder.is_dir() for folder in folders)


# ---- the configuration


@pytest.fixture
def begun(tmp_path):
    """A folder in which a run was begun, its configuration and its source."""
    config = tiny_config(abstain=False)
    source = SourceRecord.of(config, marked_splits()["train"])
    run = RunFolder(tmp_path / "run")
    run.begin(config, source)
    return run, config, source


def test_the_record_of_a_run_has_its_configuration_source_and_machine(begun):
    run, config, source = begun
    record = run.record()
    assert (record.config, record.source) == (config, source)
    assert record.versions["torch"] == provenance()["versions"]["torch"]
    assert read_json(run.path / "config.json")["format"] == FORMAT


def test_other_settings_are_refused_by_name(begun):
    run, config, source = begun
    other = config.with_settings({"seed": 2, "projection_size": 3})
    with pytest.raises(ValueError, match="holds a run with other settings of projection_size, seed: choose another"):
        run.begin(other, source)
    with pytest.raises(ValueError, match="holds a run with other settings of seed"):
        run.begin(other, source, changes=["projection_size"])
    run.begin(other, source, changes=["projection_size", "seed"])
    assert run.record().config == other


def test_another_source_is_refused(begun):
    run, config, source = begun
    with pytest.raises(ValueError, match=r"synthetic has depth 9, but the run was trained with 4"):
        run.begin(config, dataclasses.replace(source, depth=9))
    with pytest.raises(ValueError, match=r"synthetic is not the source that .* was trained on, or has"):
        run.begin(config, dataclasses.replace(source, identity="other"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields | {"format": FORMAT + 1}, f"has format {FORMAT + 1}, and this version reads format"),
        (lambda fields: {"format": None}, "has format None, and this version reads format"),
        (lambda fields: [1], "has format None, and this version reads format"),
        (lambda fields: fields | {"config": fields["config"] | {"colour": 1}}, r"this version \(.* in colour\)"),
        (lambda fields: fields | {"config": fields["config"] | {"model": "x"}}, "model must be one of .*got 'x'"),
        (lambda fields: fields | {"weather": "rain"}, "does not fit this version .*weather.*: train the run again"),
        (lambda fields: {"format": FORMAT}, r"does not fit this version \('config'\)"),
        (lambda fields: fields | {"source": {}}, "does not fit this version"),
    ],
)
def test_a_configuration_of_another_version_is_refused_in_a_line(begun, change, message):
    run, _, _ = begun
    path = run.path / "config.json"
    write_json(path, change(read_json(path)))
    with pytest.raises(ValueError, match=message) as refused:
        run.record()
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=message):
        find_runs(run.path.parent)


def test_runs_are_found_in_the_order_of_the_models(tmp_path):
    for model in ("random", "soft", "reinforce"):
        config = tiny_config(model=model, abstain=False)
        RunFolder(tmp_path / model).begin(config, SourceRecord.of(config, marked_splits()["train"]))
    assert [run.path.name for run in find_runs(tmp_path)] == ["reinforce", "soft", "random"]
    assert [run.path for run in find_runs(tmp_path / "soft")] == [tmp_path / "soft"]
    with pytest.raises(
        FileNotFoundError, match=r"no run in .*nowhere \(no config.json\): name a folder that videoglimpse train wrote"
    ):
        find_runs(tmp_path / "nowhere")


# ---- checkpoints

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2, requires_grad=True)}  # one is not contiguous


def test_the_best_weights_are_read_as_they_were_written(tmp_path):
    run = RunFolder(tmp_path)
    assert not run.has_best
    run.save_best(WEIGHTS)
    assert run.has_best
    loaded = run.load_best()
    assert loaded.keys() == WEIGHTS.keys()
    assert all(torch.equal(loaded[name], WEIGHTS[name]) for name in WEIGHTS)


def test_the_same_weights_make_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        RunFolder(tmp_path / name).save_best(WEIGHTS)
    assert (tmp_path / "one" / "best.safetensors").read_bytes() == (tmp_path / "two" / "best.safetensors").read_bytes()


def test_there_are_no_best_weights_before_validation(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no best.safetensors in {tmp_path}: the run has not validated yet"):
        RunFolder(tmp_path).load_best()


def test_the_state_to_resume_from_is_read_as_it_was_written(tmp_path):
    run = RunFolder(tmp_path)
    assert run.load_last() is None
    assert run.updates_done() == 0
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    run.save_last({"policy": {"w": weight.detach()}, "optimizer": optimizer.state_dict(), "num_updates": 7})
    state = run.load_last()
    assert run.updates_done() == 7
    assert torch.equal(state["policy"]["w"], weight.detach())
    again = torch.optim.Adam([weight], lr=0.1)
    again.load_state_dict(state["optimizer"])
    assert torch.equal(again.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg"])


def test_half_a_file_of_a_killed_write_is_not_read(tmp_path):
    run = RunFolder(tmp_path)
    run.save_last({"num_updates": 1})
    whole = (tmp_path / "last.pt").read_bytes()
    old, new = tmp_path / "last.pt.00000000.partial", tmp_path / "last.pt.ffffffff.partial"
    for leftover, age in ((old, 4000), (new, 0)):
        leftover.write_bytes(whole[: len(whole) // 2])
        os.utime(leftover, times=(time.time() - age,) * 2)
    assert run.updates_done() == 1
    run.save_last({"num_updates": 2})
    assert run.updates_done() == 2
    assert [new.exists(), old.exists()] == [True, False]  # another process may be writing the new one


def test_two_writers_of_one_file_do_not_destroy_each_others(tmp_path):
    """One of them is interrupted in the middle by the other, which finishes first."""

    def first(file):
        file.write(b"first ")
        write_atomically(tmp_path / "report.html", b"second")
        assert (tmp_path / "report.html").read_bytes() == b"second"
        file.write(b"writer")

    write_atomically(tmp_path / "report.html", first)
    assert (tmp_path / "report.html").read_bytes() == b"first writer"
    with pytest.raises(OSError, match="no space"):
        write_atomically(tmp_path / "report.html", failing)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def failing(file):
    file.write(b"half")
    raise OSError("no space")


class Thief:
    """Prints when it is unpickled."""

    def __reduce__(self):
        return (print, ("stolen",))


def test_a_checkpoint_runs_no_code(tmp_path, capsys):
    run = RunFolder(tmp_path)
    run.save_last({"num_updates": Thief()})
    with pytest.raises(ValueError, match=r"last.pt is damaged \(UnpicklingError\): remove it, and --resume trains"):
        run.load_last()
    assert "stolen" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04]", None])
def test_damaged_checkpoints_are_named_with_a_remedy(tmp_path, content):
    run = RunFolder(tmp_path)
    run.save_best(WEIGHTS)
    run.save_last({"num_updates": 1})
    for name in ("best.safetensors", "last.pt"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:100] if content is None else content)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/best.safetensors is damaged \(\w+\): train the run again$"):
        run.load_best()
    with pytest.raises(ValueError, match=rf"^{tmp_path}/last.pt is damaged \(\w+\): remove it, and --resume trains"):
        run.load_last()


def test_weights_of_another_network_are_named(tmp_path):
    run, source = RunFolder(tmp_path), marked_splits()["train"]
    run.save_best(WEIGHTS)
    with pytest.raises(
        ValueError, match=r"best.safetensors does not fit this version \(.{,200}\): train the run again"
    ):
        run.best_policy(tiny_config(), source)


# ---- results


def test_a_result_of_another_version_is_refused_in_a_line(tmp_path):
    train(tiny_config(), tmp_path, sources=marked_splits())
    run = RunFolder(tmp_path)
    assert run.finished() == run.result()
    path = tmp_path / "evaluation.json"
    whole = read_json(path)
    for change in ({"weather": 1}, {"validation": {}}, {"test": [1]}):
        write_json(path, whole | change)
        with pytest.raises(ValueError, match=r"does not fit this version .*: remove it, and --resume the run"):
            run.result()
    path.unlink()
    assert run.result() is None
    spaced = RunFolder(tmp_path.rename(tmp_path.with_name("my runs")))
    with pytest.raises(FileNotFoundError, match=r"train --resume '.*/my runs'$"):  # can be pasted into a shell
        spaced.finished()
    with pytest.raises(ValueError, match=r"or resume it with --resume '.*/my runs'$"):
        spaced.begin(tiny_config(seed=5), spaced.record().source)
    spaced.path.rename(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=f"is not finished: finish it with videoglimpse train --resume {tmp_path}"
    ):
        run.finished()


def test_a_result_without_the_test_split_says_so(tmp_path):
    result = train(tiny_config(), tmp_path, sources=marked_splits(), test=False)
    with pytest.raises(ValueError, match="the test split of this run was not played"):
        print(result.measured)
    again = train(tiny_config(), tmp_path, sources=marked_splits())  # plays the splits that are missing
    assert again.test is not None
    assert again.validation == result.validation


# ---- the log


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events_of(folder):
    """Return (step, value) of the scalars that TensorBoard shows under train/loss."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars("train/loss")]


def write_log(folder, begin, updates, value):
    folder.mkdir(exist_ok=True)
    log = MetricsLog(RunFolder(folder), begin)
    for update in updates:
        log.write(update, {"train/loss": value})
    log.close()


def test_scalars_are_written_as_lines_and_events(tmp_path):
    write_log(tmp_path / "run", 0, [1, 2], 0.5)
    assert lines_of(tmp_path / "run") == [{"update": 1, "train/loss": 0.5}, {"update": 2, "train/loss": 0.5}]
    assert RunFolder(tmp_path / "run").metrics() == lines_of(tmp_path / "run")
    assert events_of(tmp_path / "run") == [(1, 0.5), (2, 0.5)]


def test_a_resumed_run_drops_the_lines_after_its_checkpoint(tmp_path, monkeypatch):
    # Files of one second are numbered by a counter of the process, and "10" sorts before "9".
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer._global_uid", AtomicCounter(0))
    write_log(tmp_path, 0, [10, 20, 30], 0.5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 20, "train/lo')  # cut short by a kill
    write_log(tmp_path, 20, [30, 40], 0.25)
    assert [(line["update"], line["train/loss"]) for line in lines_of(tmp_path)] == [
        (10, 0.5), (20, 0.5), (30, 0.25), (40, 0.25),
    ]  # fmt: skip
    assert events_of(tmp_path) == [(10, 0.5), (20, 0.5), (30, 0.25), (40, 0.25)]


def test_a_run_without_a_checkpoint_starts_its_log_again(tmp_path):
    write_log(tmp_path, 0, [10], 0.5)
    write_log(tmp_path, 0, [10], 0.25)
    assert [line["train/loss"] for line in lines_of(tmp_path)] == [0.25]


# ---- progress

SCALARS = {"train/accuracy": 0.25, "train/focus": 0.5, "train/loss": 3.0}


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("glimpse_agents.runs.progress.time.perf_counter", clock)
    return clock


def test_without_a_terminal_a_line_comes_every_thirty_seconds_with_rate_and_time_left(clock, capsys):
    with Progress(40) as progress:
        for update in range(1, 21):
            clock.now += 4.0
            progress.advance("reinforce", update, SCALARS if update % 10 == 0 else {}, of=20)
        clock.now += 4.0
        progress.advance("random", 1, {}, of=20)
    assert capsys.readouterr().out.splitlines() == [
        "reinforce 1/20  0.2 updates/s, 3 min left",
        "reinforce 9/20  0.2 updates/s, 2 min left",
        "reinforce 17/20  0.2 updates/s, 92 s left  train acc 0.250  train focus 0.500",
        "reinforce 20/20  0.2 updates/s, 80 s left  train acc 0.250  train focus 0.500",
    ]


def test_a_notebook_gets_a_bar_instead_of_lines(clock, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with Progress(2) as progress:
        for update in (1, 2):
            clock.now += 40.0
            progress.advance("soft", update, SCALARS, of=2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "soft |" in shown.err
    assert "2/2" in shown.err


def test_a_resumed_command_prints_at_once_and_leaves_earlier_updates_out_of_the_rate(clock, capsys):
    with Progress(100) as progress:
        progress.skip(90)
        clock.now += 2.0
        progress.advance("soft", 91, {}, of=100)
    assert capsys.readouterr().out == "soft 91/100  0.5 updates/s, 18 s left\n"


def test_the_seconds_between_lines_can_be_changed(monkeypatch, capsys):
    monkeypatch.setattr("glimpse_agents.runs.progress.SECONDS_BETWEEN_LINES", 0.0)
    with Progress(5) as progress:
        for update in range(1, 6):
            progress.advance("max", update, {}, of=5)
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_training_and_validation_accuracy_have_different_names(clock, capsys):
    with Progress(1) as progress:
        clock.now = 1.0
        progress.advance("max", 1, {"train/accuracy": 0.25, "validation/accuracy": 0.125}, of=1)
    assert capsys.readouterr().out == "max 1/1  1.0 updates/s, 0 s left  train acc 0.250  valid acc 0.125\n"


def test_a_silent_process_prints_nothing(capsys):
    with Progress(1, shows=False) as progress:
        progress.advance("max", 1, SCALARS, of=1)
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_fits_into_80_columns(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(200_000) as progress:
        progress.skip(100_000)
        values = {"train/accuracy": 0.25, "validation/accuracy": 0.5, "train/focus": 0.5}
        for update in range(1, 2001):
            progress.advance("soft_hidden", update, values, of=100_000)
    drawn = [re.sub(r"\x1b\[.", "", line) for line in re.split(r"[\r\n]", terminal.getvalue())]
    assert max(map(len, drawn)) <= 80
    full = [line for line in drawn if "soft_hidden" in line]
    assert full
    assert all("train 0.25 valid 0.50" in line for line in full[1:]), full[-1]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (6060, "1 h 41 min")]
)
def test_durations_are_short(seconds, text):
    assert format_seconds(seconds) == text
