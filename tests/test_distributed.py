"""Several processes train as one: the same numbers to rounding, one voice, and an end together."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from agent_toys import TINY_NETWORK, marked_source, tiny_config, write_marked_store
from glimpse_agents.learning.glimpses import (
    draw_cells,
    draw_classes,
    draw_sets,
    oracle_cells,
    random_cells,
    random_sets,
)
from glimpse_agents.parallel.ranks import (
    Share,
    average_gradients,
    current_share,
    from_first,
    joined,
    largest_over_ranks,
    mean_over_ranks,
    mean_scalars,
    together,
    uniform,
)
from glimpse_agents.playing.envs import check_device, make_envs, make_policy
from glimpse_agents.playing.rollout import SOFT, Manner, collect_rollout
from glimpse_agents.playing.soft import play_softly
from glimpse_agents.runs.folder import Checkpoints, read_json

ROOT = Path(__file__).parent.parent
SHARES = [Share(rank, 3) for rank in range(3)]


def seeded():
    return torch.Generator().manual_seed(7)


# ---- what is drawn does not depend on the number of ranks

LOGITS = torch.linspace(-1, 1, 12 * 5).reshape(12, 5).sin()


@pytest.mark.parametrize(
    "draw",
    [
        lambda rows, share: uniform((len(rows), 2), seeded(), share),
        lambda rows, share: draw_cells(rows, 3, seeded(), share),
        lambda rows, share: draw_classes(rows, seeded(), share),
        lambda rows, share: random_cells(rows.shape, 3, seeded(), share),
        lambda rows, share: oracle_cells(rows > 0, 3, seeded(), share),
        lambda rows, share: draw_sets(rows, seeded(), share),
        lambda rows, share: random_sets(rows.shape, seeded(), share),
    ],
    ids=["uniform", "cells", "classes", "random cells", "oracle", "sets", "random sets"],
)
def test_parts_of_a_draw_make_up_the_whole(draw):
    whole = draw(LOGITS, Share())
    parts = [draw(LOGITS[share.of(12)], share) for share in SHARES]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(parts[0], parts[1])


def test_one_rank_draws_what_torch_does():
    assert torch.equal(uniform((4, 3), seeded()), torch.rand(4, 3, generator=seeded()))


MIXED = {"sample_classes": True, "mirror": True, "mirrored_together": 2, "random_share": 0.4}


@pytest.mark.parametrize("looking", ["learned", "random", "oracle", "unlimited", "soft", "soft_top", "gumbel"])
def test_episodes_do_not_depend_on_who_plays_them(looking):
    config = tiny_config(observation="cube", abstain=True)
    source = marked_source(12)
    policy = make_policy(config, source, looking)
    way = play_softly if looking in (*SOFT, "gumbel") else collect_rollout
    clips = np.arange(6).repeat(2)

    def play(share):
        mine = clips[share.of(12)]
        envs = make_envs(config, source, len(mine), train=True, looking=looking)
        generator = seeded()
        masks = policy.draw_masks(len(mine), generator, share)
        manner = Manner(looking=looking, **MIXED)
        return way(envs, policy, mine, manner, generator=generator, masks=masks, share=share)

    whole, parts = play(Share()), [play(share) for share in SHARES]
    for name in ("looked", "predictions", "rewards"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name
    torch.testing.assert_close(torch.cat([part.class_logits for part in parts]), whole.class_logits)
    if way is collect_rollout:
        assert torch.equal(torch.cat([part.explored for part in parts]), whole.explored)
        assert 0 < whole.explored.sum() < whole.explored.numel()


def test_dropout_does_not_depend_on_who_drops():
    policy = make_policy(tiny_config(policy=TINY_NETWORK), marked_source(3), "learned")
    whole, parts = policy.draw_masks(6, seeded()), [policy.draw_masks(2, seeded(), share) for share in SHARES]
    for name in ("head", "scorer"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_classes_are_drawn_by_their_probabilities():
    logits, count = torch.tensor([0.1, 0.2, 0.7]).log(), 40_000
    drawn = draw_classes(logits.expand(count, 3), seeded())
    shares = torch.bincount(drawn, minlength=3) / count
    assert ((shares - logits.exp()).abs() < 4 * (logits.exp() * (1 - logits.exp()) / count).sqrt()).all()


# ---- one rank has all and waits for nobody


def test_one_rank_has_everything():
    assert current_share() == Share(0, 1)
    assert Share().of(5) == slice(0, 5)
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, 2.0])
    with joined() as share, together():
        average_gradients([weight])
        assert (share, from_first(lambda: "made"), largest_over_ranks(-3)) == (Share(), "made", -3)
    assert weight.grad.tolist() == mean_over_ranks(torch.tensor([1.0, 2.0])).tolist() == [1, 2]
    assert mean_scalars({"a": 0.1, "b": 2.0}) == {"a": 0.1, "b": 2.0}


def test_an_error_of_the_only_rank_is_its_own():
    with pytest.raises(ValueError, match="mine"), together():
        raise ValueError("mine")


# ---- what is refused


def test_clips_that_cannot_be_shared_are_named():
    message = "the 32 clips of an update cannot be shared evenly by 3 processes: set --clips to a multiple of 3, or"
    with pytest.raises(ValueError, match=message):
        Share(1, 3).of(32)


def test_one_device_for_several_processes_is_refused():
    with pytest.raises(ValueError, match="2 processes need a device each, got 'cuda:0': use --device cuda"):
        check_device("cuda:0", Share(0, 2))


# ---- two processes, as torchrun starts them

SIZES = ["--preset", "small", "--updates", "100", "--clips", "4", "--rollouts", "3", "--warmup-updates", "8"]
SIZES += ["--glimpses", "2", "--validate-every", "50", "--checkpoint-seconds", "0", "--controls", "oracle"]
SIZES += ["--frames", "3", "--jitter", "--mirror", "--abstain", "True", "--random-share", "0.3"]
SIZES += ["--policy.hidden-size", "8", "--policy.layers", "2", "--policy.dropout", "0.3"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_marked_store(tmp_path_factory.mktemp("store") / "marked"))


def start(processes, log, *arguments):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, *(launcher if processes > 1 else []), "agents/reinforce.py", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def finish(processes, log, *arguments):
    process = start(processes, log, *arguments)
    assert process.wait(timeout=120) == 0, log.read_text()


def wait_for_training(process, run, log):
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():  # of ten updates
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)


def weights_of(arm):
    return {name: weight for name, weight in Checkpoints(arm).load_last()["policy"].items() if weight.any()}


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """The folder of a run of one process, unbroken."""
    folder = tmp_path_factory.mktemp("whole")
    finish(1, folder / "log.txt", *SIZES, "--source", store, "--out", folder / "run")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_stopped_run_goes_on_with_another_number_of_processes(store, whole, tmp_path, before, after):
    """The numbers agree to rounding and no further: sums over a batch's parts are not those over all of it."""
    run, log = tmp_path / "run", tmp_path / "log.txt"
    process = start(before, log, *SIZES, "--source", store, "--out", run)
    wait_for_training(process, run, log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == (143 if before == 1 else 1)  # torchrun has its own way to fail
    update = Checkpoints(run).load_last()["update"]
    told = re.findall(r"stopped by (\w+) after update (\d+): go on with --resume (.*)", log.read_text())
    assert told == [("SIGTERM", str(update), str(run))]
    assert 10 <= update < 100
    assert not (run / "evaluation.json").exists()
    finish(after, log, "--resume", run)
    for arm in (".", "controls/oracle"):
        weights = weights_of(run / arm)
        for name, expected in weights_of(whole / arm).items():
            assert (weights[name] - expected).norm() <= 1e-4 * expected.norm(), (arm, name)
    results = [read_json(folder / "result.json") for folder in (whole, run)]
    assert results[0]["accuracy"] == results[1]["accuracy"]
    assert log.read_text().count("wrote ") == 1


@pytest.mark.slow
@pytest.mark.ci
def test_what_fails_on_all_is_told_once(store, tmp_path):
    log = tmp_path / "log.txt"
    process = start(
        2, log, *SIZES, "--learning-rate", "1e37", "--source", store, "--out", tmp_path / "run", "--controls"
    )
    assert process.wait(timeout=60) == 1
    told = re.findall("^error: (.*)", log.read_text(), re.MULTILINE)
    assert len(told) == 1, log.read_text()
    assert re.match(r"the (loss|gradient) of update \d+ is not finite, on clips \['\w+', '\w+'\]: lower the", told[0])
    weights = Checkpoints(tmp_path / "run").load_last()["policy"]
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes as Linux shows them")
def test_a_process_that_is_killed_takes_the_others_with_it(store, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log.txt"
    process = start(2, log, *SIZES, "--updates", "100000", "--source", store, "--out", run)
    wait_for_training(process, run, log)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {environment_of(child)["RANK"]: int(child) for child in children if "RANK" in environment_of(child)}
    os.kill(ranks["1"], signal.SIGKILL)
    assert process.wait(timeout=60) == 1
    told = re.findall("^error: (.*)", log.read_text(), re.MULTILINE)
    assert len(told) <= 1, log.read_text()  # torchrun may end the survivor before it has noticed
    assert all(re.match("another process of this run has stopped .*: go on with --resume", line) for line in told)
    assert Checkpoints(run).load_last()["update"] >= 1


@pytest.mark.slow
def test_a_lost_process_is_told_by_the_one_that_is_left(store, tmp_path):
    """Without torchrun, which would end the other before it could speak."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run, logs, processes = tmp_path / "run", [tmp_path / "0.txt", tmp_path / "1.txt"], []
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    arguments = [*SIZES, "--updates", "100000", "--source", store, "--out", str(run)]
    for rank, log in enumerate(logs):
        with log.open("w") as output:
            own = {**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "agents/reinforce.py", *arguments]
            processes.append(subprocess.Popen(command, cwd=ROOT, env=own, stdout=output, stderr=subprocess.STDOUT))
    wait_for_training(processes[0], run, logs[0])
    processes[1].kill()
    assert processes[1].wait() == -signal.SIGKILL
    assert processes[0].wait(timeout=60) == 1
    said = logs[0].read_text()
    assert re.search(r"^error: another process of this run has stopped .*: go on with --resume", said, re.M), said


def environment_of(process):
    lines = Path(f"/proc/{process}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)
