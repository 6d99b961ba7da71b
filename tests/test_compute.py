"""Costs of models: their measurement, their table, and the refusals of the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from agent_toys import tiny_config, write_marked_store
from glimpse_agents.compute import (
    Arguments,
    Batch,
    CnnCost,
    Compute,
    ModelCost,
    answer,
    finished_runs,
    main,
    measure,
    parse_arguments,
    table,
)
from glimpse_agents.cost.latency import Latency, growth, in_fresh_process, memory_of_playing, time_frames
from glimpse_agents.cost.macs import Macs
from glimpse_agents.reinforce import train
from glimpse_agents.runs.files import read_json, write_json
from glimpse_agents.runs.provenance import provenance

from glimpse_env.files import file_sha256
from glimpse_env.video.backbones import Backbone, normalise_imagenet
from glimpse_env.video.decode import USUAL

REINFORCE = Macs(
    choosing=2e6, attending=1e6, recurrent=6e6, head=1e6, slices_attended=20.0, slices_read=100.0, slices_at_first=10.0
)
SOFT = Macs(
    choosing=2e6, attending=9e6, recurrent=6e6, head=3e6, slices_attended=100.0, slices_read=100.0, slices_at_first=10.0
)
ALL = Macs(
    choosing=0.0, attending=1e6, recurrent=6e6, head=1e6, slices_attended=100.0, slices_read=100.0, slices_at_first=10.0
)
CNN = CnnCost(name="net", batch_size=2, macs_per_frame=99e6, seconds_per_frame=0.25, memory_bytes=5_000_000)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of three models on a store of which six clips are tests."""
    store = write_marked_store(tmp_path_factory.mktemp("stores") / "marked")
    out = tmp_path_factory.mktemp("runs") / "all"
    for model in ("reinforce", "random", "soft"):
        train(tiny_config(source=str(store), updates=2, model=model), out / model)
    return out


def cost(macs, cnn, memory=7_000_000):
    latency = Latency(seconds=0.002, network_seconds=0.001)
    batch = Batch(clips=4, latency=latency, memory_bytes=memory)
    return ModelCost(macs=macs, batches=(batch,), cnn_macs=None if cnn is None else 10 * cnn.macs_per_frame)


def compute(cnn=CNN, **models):
    return Compute(frames=10, models={name: cost(macs, cnn) for name, macs in models.items()}, cnn=cnn)


def change_config(run, section, **changes):
    content = read_json(run / "config.json")
    content[section] |= changes
    write_json(run / "config.json", content)


def test_unfinished_runs_are_left_out(runs, tmp_path):
    copy = shutil.copytree(runs, tmp_path / "copy")
    (copy / "random" / "evaluation.json").unlink()
    assert [run.path for run in finished_runs(copy)] == [copy / "reinforce", copy / "soft"]
    assert [run.path for run in finished_runs(copy / "soft")] == [copy / "soft"]


def test_batches_are_cut_to_the_test_split(runs, capsys):
    measured = measure(Arguments(runs / "random", batches=(64, 2, 7), repetitions=1))
    assert [batch.clips for batch in measured.models["random"].batches] == [6, 2]
    assert capsys.readouterr().err == "the test split has 6 clips: larger batches are cut to it\n"


def test_the_memory_of_a_packed_run_is_measured():
    (run,) = finished_runs(Path("synthetic"))
    assert in_fresh_process(memory_of_playing, run.record().config, run.path, 1) > 0


def test_the_table_has_a_row_for_each_model():
    lines = table(compute(reinforce=REINFORCE, all=ALL)).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    ours, every = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])
    assert ours[:9] == ["reinforce", "20", "100", "990.00", "2.00", "1.00", "6.00", "1.00", "10.00"]
    assert ours[9:] == ["1.00%", "2.00", "1.00", "7"]
    assert every[:5] == ["all", "100", "100", "990.00", "0.00"]
    assert every[8] == "8.00"
    without = table(compute(None, reinforce=REINFORCE)).splitlines()[2]
    assert "| 100 | - | 2.00 |" in without
    assert "| 10.00 | - |" in without


def test_the_answer_compares_glimpses_with_models_that_read_all_slices():
    lines = answer(compute(reinforce=REINFORCE, soft=SOFT, all=ALL, random=ALL)).splitlines()
    assert "needs 10.00 million MACs per clip, 20.0% of them to choose cells; it attends to 20 slices" in lines[0]
    assert lines[0].endswith("but reads 100 to score them.")
    assert lines[1].startswith(
        "Compared with soft, which reads 100: 50% fewer MACs; attention alone needs 3.00 million"
    )
    assert lines[1].endswith("million, not 11.00 million.")
    assert lines[2].startswith("Compared with all, which reads 100: 25% more MACs")
    # 990 + 10 against 990 + 20 and 990 + 8
    assert lines[3].startswith(
        "With the CNN net, reinforce needs 1,000.00 million MACs per clip, 99.00% of them in the"
    )
    assert "CNN; 0.99% fewer MACs than soft; 0.2" in lines[3]


def test_the_answer_names_missing_measurements():
    assert answer(compute(soft=SOFT)).startswith("There is no finished run of the model reinforce")
    lines = answer(compute(None, reinforce=Macs(**(vars(REINFORCE) | {"slices_read": 20.0})))).splitlines()
    assert lines[0].endswith("attends to 20 slices and reads no others.")
    assert lines[1].endswith("pass its --weights.")
    assert len(lines) == 2


def test_the_numbers_are_printed_and_written(runs, tmp_path, capsys):
    path = tmp_path / "compute.json"
    main(Arguments(runs, batches=(6,), repetitions=1, json=path))
    printed = capsys.readouterr().out
    assert all(f"\n| {name} | " in printed for name in ("reinforce", "random", "soft"))
    assert "Compared with soft, which reads 36: " in printed
    content = json.loads(path.read_text())
    assert (content["frames"], content["cnn"]) == (4, None)
    reinforce, random, soft = (content["models"][name] for name in ("reinforce", "random", "soft"))
    assert reinforce["macs"]["choosing"] > random["macs"]["choosing"] == 0
    assert reinforce["macs"]["slices_attended"] == 9 + 3 * 2
    assert soft["macs"]["slices_attended"] == 4 * 9
    (batch,) = soft["batches"]
    assert batch["latency"]["network_seconds"] > 0
    assert 0 < batch["latency"]["seconds"] < 10
    assert batch["memory_bytes"] is None or 1e4 < batch["memory_bytes"] < 1e9
    assert content["provenance"] == provenance()


def grown_by_arrays():
    """Return by how much memory grew with one array, with two more that were freed, and after that."""
    with growth(torch.device("cpu")) as grown:
        kept = np.ones(5_000_000)
        readings = [grown()]
        np.ones(10_000_000)
        readings.append(grown())
    with growth(torch.device("cpu")) as grown:
        readings.append(grown())
    assert kept[-1] == 1
    return readings


def test_memory_is_measured_at_its_peak():
    one, two, after = in_fresh_process(grown_by_arrays)  # this process may keep freed memory for the next array
    if one is None:
        pytest.skip("this system does not report memory")
    assert one > 39e6
    assert two > 119e6
    assert after < 10e6


def test_a_fresh_process_has_another_number():
    assert in_fresh_process(os.getpid) != os.getpid()


def test_frames_are_timed_in_batches():
    seen = []

    def network(pictures):
        seen.append(tuple(pictures.shape))
        return pictures

    backbone = Backbone(
        name="googlenet",
        weights_sha256="",
        device=torch.device("cpu"),
        network=network,
        normalise=normalise_imagenet,
    )
    assert 0 < time_frames(backbone, frames=3, repetitions=2) < 1
    assert seen == 3 * [(3, 3, 224, 224)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--weights", "nowhere.safetensors"],
            "was trained on .*, which is neither a feature store nor a lazy source",
        ),
        (["--device", "abacus"], "unknown device 'abacus'"),
    ],
)
def test_impossible_measurements_are_named(runs, tmp_path, flags, message):
    copy = shutil.copytree(runs / "random", tmp_path / "copy")
    change_config(copy, "source", extraction=None)  # as on the synthetic source
    with pytest.raises(ValueError, match=message):
        main(parse_arguments([str(copy), *flags]))


def extracted(run, copy, weights_sha256):
    """Return a copy of a run whose features are recorded as the original GoogLeNet's."""
    shutil.copytree(run, copy)
    extraction = {"backbone": "bvlc_googlenet", "resize_rule": str(USUAL), "batch_size": 2, "max_frames": 4}
    change_config(copy, "source", extraction=extraction | {"weights_sha256": weights_sha256})
    return copy


def test_the_network_that_made_the_features_is_measured(runs, weights, tmp_path):
    copy = extracted(runs / "reinforce", tmp_path / "copy", file_sha256(weights))
    measured = measure(Arguments(copy, weights=weights, batches=(1,), repetitions=1))
    assert (measured.cnn.name, measured.cnn.batch_size) == ("bvlc_googlenet", 2)
    assert measured.models["reinforce"].cnn_macs == 4 * measured.cnn.macs_per_frame > 4e9
    assert measured.cnn.seconds_per_frame > 0
    assert measured.cnn.memory_bytes is None or measured.cnn.memory_bytes > 20e6  # seven million weights
    assert "With the CNN bvlc_googlenet, reinforce needs " in answer(measured)


def test_the_network_runs_on_the_cameras_and_the_frames_that_are_looked_at(weights, tmp_path):
    made_by = {"backbone": "bvlc_googlenet", "weights_sha256": file_sha256(weights), "resize_rule": str(USUAL)}
    store = write_marked_store(tmp_path / "marked", **made_by)
    wall = {"source": str(store), "grid": 3, "background": ["classa"], "walls": {"train": 12, "validation": 6}}
    (tmp_path / "wall.json").write_text(json.dumps(wall))
    task = {"model": "random", "updates": 1}
    train(tiny_config(**task, source=f"wall:{tmp_path}/wall.json"), tmp_path / "wall")
    train(tiny_config(**task, source=str(store), jumps=(2,), abstain=False), tmp_path / "stride")
    for run, network_runs in (("wall", 9 + 3 * 2), ("stride", 2)):  # the first glance and three frames, or two of four
        measured = measure(Arguments(tmp_path / run, weights=weights, batches=(1,), repetitions=1))
        assert measured.models["random"].cnn_macs == network_runs * measured.cnn.macs_per_frame


def test_weights_that_do_not_fit_the_run_are_named(runs, weights, tmp_path):
    copy = extracted(runs / "reinforce", tmp_path / "copy", "0" * 64)
    with pytest.raises(ValueError, match=r"no weights of bvlc_googlenet at nowhere\.safetensors"):
        main(parse_arguments([str(copy), "--weights", "nowhere.safetensors"]))
    with pytest.raises(ValueError, match=r"bvlc_googlenet made the run's features with weights of sha256 000"):
        main(parse_arguments([str(copy), "--weights", str(weights)]))


def test_a_folder_without_finished_runs_is_refused(runs, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no run in {tmp_path}"):
        measure(Arguments(tmp_path))
    shutil.copy(runs / "soft" / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no run in {tmp_path} is finished: finish one with .* --resume"):
        measure(Arguments(tmp_path))


@pytest.mark.parametrize("changes", [{}, {"source": "elsewhere"}])
def test_runs_must_differ_in_their_model_alone(runs, tmp_path, changes):
    for name in ("one", "two"):
        shutil.copytree(runs / "soft", tmp_path / name)
    if changes:
        shutil.rmtree(tmp_path / "two")
        shutil.copytree(runs / "random", tmp_path / "two")
        content = read_json(tmp_path / "two" / "config.json")
        content["config"]["task"] |= changes
        write_json(tmp_path / "two" / "config.json", content)
    with pytest.raises(ValueError, match="must be of different models on the same task: name one run instead"):
        finished_runs(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": (0,)}, r"--batches must be numbers of at least 1 clip, got \(0,\)"),
        ({"repetitions": 0}, "--repetitions must be at least 1, got 0"),
    ],
)
def test_flags_out_of_range_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Arguments(tmp_path, **changes)


def test_a_missing_folder_for_the_numbers_is_named_before_any_work(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        main(Arguments(tmp_path, json=tmp_path / "nowhere" / "compute.json"))


def test_the_command_ends_with_one_line_of_error(tmp_path):
    script = [sys.executable, "-m", "agents.compute", str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: no run in {tmp_path}")
    assert done.stderr.count("\n") == 1
