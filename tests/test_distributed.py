"""Several processes that train as one: the same numbers up to rounding, one voice, and a common end."""

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
from agent_toys import marked_source, tiny_config, write_marked_store
from glimpse_agents.learning.episodes import GlimpseRollout
from glimpse_agents.learning.glimpses import (
    draw_cells,
    draw_classes,
    draw_sets,
    oracle_cells,
    random_cells,
    random_sets,
)
from glimpse_agents.learning.models import MODELS
from glimpse_agents.parallel.noise import Noise, Share
from glimpse_agents.parallel.ranks import (
    average_gradients,
    current_share,
    from_first,
    join_ranks,
    largest_over_ranks,
    mean_over_ranks,
    mean_scalars,
    raise_together,
)
from glimpse_agents.playing.envs import check_device, make_envs, make_policy
from glimpse_agents.playing.players import PlaySettings
from glimpse_agents.playing.rollout import collect_rollout
from glimpse_agents.runs.folder import RunFolder

ROOT = Path(__file__).parent.parent
SHARES = [Share(rank, 3) for rank in range(3)]


# ---- random draws do not depend on the number of ranks

LOGITS = torch.linspace(-1, 1, 12 * 5).reshape(12, 5).sin()


@pytest.mark.parametrize(
    "draw",
    [
        lambda rows, noise: noise.uniform((len(rows), 2)),
        lambda rows, noise: noise.gumbel((len(rows), 2)),
        lambda rows, noise: draw_cells(rows, 3, noise),
        lambda rows, noise: draw_classes(rows, noise),
        lambda rows, noise: random_cells(rows.shape, 3, noise),
        lambda rows, noise: oracle_cells(rows > 0, 3, noise),
        lambda rows, noise: draw_sets(rows, noise),
        lambda rows, noise: random_sets(rows.shape, noise),
    ],
    ids=["uniform", "gumbel", "cells", "classes", "random cells", "oracle", "sets", "random sets"],
)
def test_the_draws_of_all_ranks_make_up_those_of_one(draw):
    whole = draw(LOGITS, Noise.seeded(7))
    parts = [draw(LOGITS[share.of(12)], Noise.seeded(7, share=share)) for share in SHARES]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(parts[0], parts[1])


def test_one_rank_draws_the_numbers_of_torch():
    drawn = torch.rand(4, 3, generator=torch.Generator().manual_seed(7))
    assert torch.equal(Noise.seeded(7).uniform((4, 3)), drawn)


@pytest.mark.parametrize("model", ["reinforce", "random", "oracle", "unlimited", "soft", "soft_top", "gumbel"])
def test_episodes_do_not_depend_on_the_rank_that_plays_them(model):
    config = tiny_config(observation="cube", abstain=True, model=model)
    source = marked_source(12)
    policy = make_policy(config, source)
    settings = PlaySettings(
        model=MODELS[model], in_view="cube", sample_classes=True, mirror=True, mirrored_together=2, random_share=0.4
    )
    clips = np.arange(6).repeat(2)

    def played(share):
        own = clips[share.of(12)]
        envs, noise = make_envs(config, source, len(own), train=True), Noise.seeded(7, share=share)
        masks = policy.draw_masks(len(own), noise)
        return collect_rollout(envs, policy, own, settings, noise=noise, masks=masks)

    whole, parts = played(Share()), [played(share) for share in SHARES]
    for name in ("looked", "predictions", "rewards"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name
    torch.testing.assert_close(torch.cat([part.class_logits for part in parts]), whole.class_logits)
    if isinstance(whole, GlimpseRollout):
        assert torch.equal(torch.cat([part.explored for part in parts]), whole.explored)
        assert 0 < whole.explored.sum() < whole.explored.numel()


def test_dropout_does_not_depend_on_the_rank():
    policy = make_policy(tiny_config(dropout=0.3, scorer_dropout=0.3), marked_source(3))
    whole = policy.draw_masks(6, Noise.seeded(7))
    parts = [policy.draw_masks(2, Noise.seeded(7, share=share)) for share in SHARES]
    for name in ("head", "scorer"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_classes_are_drawn_with_their_probabilities():
    logits, count = torch.tensor([0.1, 0.2, 0.7]).log(), 40_000
    drawn = draw_classes(logits.expand(count, 3), Noise.seeded(7))
    shares = torch.bincount(drawn, minlength=3) / count
    assert ((shares - logits.exp()).abs() < 4 * (logits.exp() * (1 - logits.exp()) / count).sqrt()).all()


# ---- one rank


def test_one_rank_has_everything_and_waits_for_nobody():
    assert current_share() == Share(0, 1)
    assert Share().of(5) == slice(0, 5)
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, 2.0])
    with join_ranks() as share, raise_together():
        average_gradients([weight])
        assert (share, from_first(lambda: "made"), largest_over_ranks(-3)) == (Share(), "made", -3)
    assert weight.grad.tolist() == mean_over_ranks(torch.tensor([1.0, 2.0])).tolist() == [1, 2]
    assert mean_scalars({"a": 0.1, "b": 2.0}) == {"a": 0.1, "b": 2.0}


def test_an_error_of_the_only_rank_is_raised_as_it_is():
    with pytest.raises(ValueError, match="mine"), raise_together():
        raise ValueError("mine")


# ---- refusals


def test_clips_that_cannot_be_shared_are_named():
    message = "3 processes cannot share the 32 clips of an update evenly: set --clips to a multiple of 3, or start"
    with pytest.raises(ValueError, match=message):
        Share(1, 3).of(32)


def test_one_device_for_several_processes_is_refused():
    with pytest.raises(ValueError, match="2 processes need a device each, got 'cuda:0': use --device cuda"):
        check_device("cuda:0", Share(0, 2))


# ---- two processes, as torchrun starts them

SIZES = ["--preset", "small", "--updates", "100", "--clips", "4", "--rollouts", "3", "--warmup-share", "0.08"]
SIZES += ["--glimpses", "2", "--validate-every", "50", "--checkpoint-seconds", "0", "--models", "reinforce", "oracle"]
SIZES += ["--frames", "3", "--jitter", "--mirror", "--abstain", "True", "--random-share", "0.3"]
SIZES += ["--hidden-size", "8", "--layers", "2", "--dropout", "0.3"]


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
    while not run.metrics():  # of ten updates
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)


def weights_of(run):
    return {name: weight for name, weight in run.load_last()["policy"].items() if weight.any()}


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """The folder of an unbroken run of one process."""
    folder = tmp_path_factory.mktemp("whole")
    finish(1, folder / "log.txt", *SIZES, "--source", store, "--out", folder / "run")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_stopped_run_is_resumed_with_another_number_of_processes(store, whole, tmp_path, before, after):
    """The numbers agree up to rounding: sums over the parts of a batch are not those over all of it."""
    out, log = tmp_path / "run", tmp_path / "log.txt"
    run = RunFolder(out / "reinforce")
    process = start(before, log, *SIZES, "--source", store, "--out", out)
    wait_for_training(process, run, log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == (143 if before == 1 else 1)  # torchrun has a status of its own
    update = run.updates_done()
    printed = re.findall(
        r"stopped by (\w+) after update (\d+) of reinforce: resume it with --resume (.*)", log.read_text()
    )
    assert printed == [("SIGTERM", str(update), str(out))]
    assert log.read_text().count("Training reinforce, oracle on") == 1
    assert 10 <= update < 100
    assert run.result() is None
    finish(after, log, "--resume", out)
    for model in ("reinforce", "oracle"):
        weights = weights_of(RunFolder(out / model))
        for name, expected in weights_of(RunFolder(whole / model)).items():
            assert (weights[name] - expected).norm() <= 1e-4 * expected.norm(), (model, name)
        accuracies = [RunFolder(folder / model).finished().measured.accuracy for folder in (whole, out)]
        assert accuracies[0] == accuracies[1]
    assert log.read_text().count("Wrote ") == 1


@pytest.mark.slow
def test_an_error_of_all_processes_is_printed_once(store, tmp_path):
    log, out = tmp_path / "log.txt", tmp_path / "run"
    finish(1, log, *SIZES, "--updates", "2", "--source", store, "--out", out, "--models", "reinforce")
    path = out / "reinforce" / "config.json"
    path.write_text(path.read_text().replace('"learning_rate": 0.003', '"learning_rate": 1e37'))
    process = start(2, log, "--resume", out, "--updates", "100")
    assert process.wait(timeout=60) == 1
    printed = re.findall("^error: (.*)", log.read_text(), re.MULTILINE)
    assert len(printed) == 1, log.read_text()
    assert re.match(
        r"the (loss|gradient) of update \d+ is not finite, on the clips \w+, \w+: lower --learning", printed[0]
    )
    assert all(weight.isfinite().all() for weight in RunFolder(out / "reinforce").load_last()["policy"].values())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes as Linux shows them")
def test_a_process_that_is_killed_ends_the_others(store, tmp_path):
    run, log = RunFolder(tmp_path / "run" / "reinforce"), tmp_path / "log.txt"
    process = start(2, log, *SIZES, "--updates", "100000", "--source", store, "--out", tmp_path / "run")
    wait_for_training(process, run, log)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {environment_of(child)["RANK"]: int(child) for child in children if "RANK" in environment_of(child)}
    os.kill(ranks["1"], signal.SIGKILL)
    assert process.wait(timeout=60) == 1
    printed = re.findall("^error: (.*)", log.read_text(), re.MULTILINE)
    assert len(printed) <= 1, log.read_text()  # torchrun may end the survivor before it has noticed
    assert all(re.match("another process of this run has stopped .*: resume with --resume", line) for line in printed)
    assert run.updates_done() >= 1


@pytest.mark.slow
def test_the_remaining_process_says_that_another_was_lost(store, tmp_path):
    """Without torchrun, which would end it before it could print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run, logs, processes = RunFolder(tmp_path / "run" / "reinforce"), [tmp_path / "0.txt", tmp_path / "1.txt"], []
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    arguments = [*SIZES, "--updates", "100000", "--source", store, "--out", str(tmp_path / "run")]
    for rank, log in enumerate(logs):
        with log.open("w") as output:
            own = {**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "agents/reinforce.py", *arguments]
            processes.append(subprocess.Popen(command, cwd=ROOT, env=own, stdout=output, stderr=subprocess.STDOUT))
    wait_for_training(processes[0], run, logs[0])
    processes[1].kill()
    assert processes[1].wait() == -signal.SIGKILL
    assert processes[0].wait(timeout=60) == 1
    printed = logs[0].read_text()
    assert re.search(r"^error: another process of this run has stopped .*: resume with --resume", printed, re.M), (
        printed
    )


def environment_of(process):
    lines = Path(f"/proc/{process}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)
