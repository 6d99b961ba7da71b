"""What a run's arms cost to play: what is measured, how it is told, and what the command line refuses."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import tyro
from agent_toys import tiny_config, write_marked_store
from glimpse_agents.compute import (
    Arguments,
    ArmCompute,
    Batch,
    CnnCompute,
    Compute,
    answer,
    finished_arms,
    main,
    measure,
    parse_arguments,
    table,
)
from glimpse_agents.cost.latency import Latency, growth, in_fresh_process, time_frames
from glimpse_agents.cost.macs import Macs
from glimpse_agents.reinforce import train
from glimpse_agents.runs.folder import provenance, read_json, write_json

from glimpse_env.files import file_sha256
from glimpse_env.video.backbones import Backbone, normalise_imagenet
from glimpse_env.video.decode import RESIZE_RULE

LEARNED = Macs(choosing=2e6, attending=1e6, recurrent=6e6, head=1e6, slices_attended=20.0, slices_read=100.0)
SOFT = Macs(choosing=2e6, attending=9e6, recurrent=6e6, head=3e6, slices_attended=100.0, slices_read=100.0)
ALL = Macs(choosing=0.0, attending=1e6, recurrent=6e6, head=1e6, slices_attended=100.0, slices_read=100.0)
CNN = CnnCompute(name="net", batch_size=2, macs_per_frame=99e6, seconds_per_frame=0.25, memory_bytes=5_000_000)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a store of which six clips are tests."""
    store = write_marked_store(tmp_path_factory.mktemp("stores") / "marked")
    out = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_config(source=str(store), updates=2, controls=("random", "soft")), out)
    return out


def arm(macs, memory=7_000_000):
    latency = Latency(seconds=0.002, network_seconds=0.001)
    return ArmCompute(macs=macs, batches=(Batch(clips=4, latency=latency, memory_bytes=memory),))


def compute(cnn=CNN, **arms):
    return Compute(frames=10, arms={name: arm(macs) for name, macs in arms.items()}, cnn=cnn)


def test_finished_arms_are_measured_whatever_the_configuration_lists(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    content = read_json(copy / "config.json")
    content["config"]["controls"] = ["centre"]
    write_json(copy / "config.json", content)
    (copy / "controls" / "random" / "evaluation.json").unlink()
    assert finished_arms(copy) == ("learned", "soft")
    measured = measure(Arguments(copy, batches=(6,), repetitions=1))
    assert list(measured.arms) == ["learned", "soft"]
    assert measured.arms["learned"].macs.slices_attended == 9 + 3 * 2
    assert measured.arms["soft"].macs.slices_attended == 4 * 9
    for batch in measured.arms["soft"].batches:
        assert batch.latency.network_seconds > 0
        assert 0 < batch.latency.seconds < 10
        assert batch.memory_bytes is None or 1e4 < batch.memory_bytes < 1e9
    assert measured.cnn_macs is None


def test_the_table_has_a_row_for_each_arm():
    lines = table(compute(learned=LEARNED, all=ALL)).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    learned, every = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])
    assert learned[:9] == ["learned", "20", "100", "990.00", "2.00", "1.00", "6.00", "1.00", "10.00"]
    assert learned[9:] == ["1.00%", "2.00", "1.00", "7"]
    assert every[:5] == ["all", "100", "100", "990.00", "0.00"]
    assert every[8] == "8.00"
    without = table(compute(None, learned=LEARNED)).splitlines()[2]
    assert "| 100 | - | 2.00 |" in without
    assert "| 10.00 | - |" in without


def test_the_answer_holds_glimpses_against_soft_attention_and_all_cells():
    lines = answer(compute(learned=LEARNED, soft=SOFT, all=ALL)).splitlines()
    assert "take 10.00 million MACs a clip, 20.0% of them to choose; they attend to 20 slices" in lines[0]
    assert lines[0].endswith("but score and so read 100.")
    assert lines[1].startswith("Against 'soft', which reads 100: 50% fewer MACs; attention alone takes 3.00 million")
    assert lines[1].endswith("there 11.00 million.")
    assert lines[2].startswith("Against 'all', which reads 100: 25% more MACs")
    # 990 + 10 against 990 + 20 and 990 + 8
    assert "990.00 million MACs and 2500 ms a clip, 99.00% of all MACs; 0.99% fewer MACs than 'soft'; 0.2%" in lines[3]


def test_the_answer_says_what_was_not_measured():
    assert answer(compute(soft=SOFT)).startswith("The learned policy is not finished")
    told = answer(compute(None, learned=Macs(**(vars(LEARNED) | {"slices_read": 20.0})))).splitlines()
    assert told[0].endswith("attend to 20 slices and read no other.")
    assert told[1].startswith("End to end is not counted without the CNN: give --weights")
    assert len(told) == 2


def test_the_numbers_are_printed_and_written(run, tmp_path, capsys):
    path = tmp_path / "compute.json"
    main(Arguments(run, batches=(1,), repetitions=1, json=path))
    told = capsys.readouterr().out
    assert all(f"\n| {name} | " in told for name in ("learned", "random", "soft"))
    assert "Against 'soft', which reads 36: " in told
    content = json.loads(path.read_text())
    assert content["frames"] == 4
    assert content["arms"]["learned"]["macs"]["choosing"] > content["arms"]["random"]["macs"]["choosing"] == 0
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


def test_memory_is_that_of_the_peak():
    one, two, after = in_fresh_process(grown_by_arrays)  # what this one has freed may be kept for the next array
    if one is None:
        pytest.skip("the system does not tell")
    assert one > 39e6
    assert two > 119e6
    assert after < 10e6


def test_a_fresh_process_is_another_one():
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
    ("flags", "error", "message"),
    [
        (["--weights", "nowhere.safetensors"], ValueError, "was trained on .* take a run that was trained on a store"),
        (["--batches", "7"], ValueError, "a batch of 7 clips, but the test split has 6: set --batches"),
        (["--device", "abacus"], ValueError, "device 'abacus' is none that torch knows"),
    ],
)
def test_what_cannot_be_measured_is_named(run, tmp_path, flags, error, message):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    content = read_json(copy / "config.json")
    content["source"]["extraction"] = None  # as on the synthetic source
    write_json(copy / "config.json", content)
    with pytest.raises(error, match=message):
        main(parse_arguments([str(copy), *flags]))


def extracted(run, copy, weights_sha256):
    """Return a copy of a run that says its features came from the original GoogLeNet."""
    shutil.copytree(run, copy)
    content = read_json(copy / "config.json")
    extraction = {"backbone": "bvlc_googlenet", "resize_rule": RESIZE_RULE, "batch_size": 2, "max_frames": 4}
    content["source"]["extraction"] = extraction | {"weights_sha256": weights_sha256}
    write_json(copy / "config.json", content)
    return copy


def test_the_network_that_made_the_features_is_measured(run, weights, tmp_path):
    copy = extracted(run, tmp_path / "copy", file_sha256(weights))
    for control in ("random", "soft"):
        shutil.rmtree(copy / "controls" / control)
    measured = measure(Arguments(copy, weights=weights, batches=(1,), repetitions=1))
    assert (measured.cnn.name, measured.cnn.batch_size) == ("bvlc_googlenet", 2)
    assert measured.cnn_macs == 4 * measured.cnn.macs_per_frame > 4e9
    assert measured.cnn.seconds_per_frame > 0
    assert measured.cnn.memory_bytes is None or measured.cnn.memory_bytes > 20e6  # seven million weights
    assert "End to end bvlc_googlenet sees whole frames in every arm" in answer(measured)


def test_weights_that_do_not_fit_the_run_are_named(run, weights, tmp_path):
    copy = extracted(run, tmp_path / "copy", "0" * 64)
    with pytest.raises(ValueError, match=r"no weights file at nowhere\.safetensors"):
        main(parse_arguments([str(copy), "--weights", "nowhere.safetensors"]))
    with pytest.raises(ValueError, match=r"features were made by bvlc_googlenet with weights of sha256 000"):
        main(parse_arguments([str(copy), "--weights", str(weights)]))


def test_a_folder_without_finished_arms_is_refused(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="not the folder of such a run"):
        measure(Arguments(tmp_path))
    shutil.copy(run / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no arm of .* is finished: train it, or go on with --resume"):
        measure(Arguments(tmp_path))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batches", "0"], "batches must be of at least 1 clip, got (0,)"),
        (["--repetitions", "0"], "repetitions must be at least 1, got 0"),
    ],
)
def test_flags_that_make_no_sense_are_named(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        tyro.cli(Arguments, args=["run", *flags])
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_numbers_cannot_be_written_into_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Arguments(tmp_path, json=tmp_path / "nowhere" / "compute.json")


def test_the_script_ends_with_one_line_of_error(tmp_path):
    script = [sys.executable, "-m", "agents.compute", str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no config.json in")
    assert done.stderr.count("\n") == 1
