"""The loops that benchmarks compare ours with learn the same: equal losses, equal gradients, for what was played."""

import dataclasses

import pytest
import torch
from agent_toys import TINY_NETWORK, marked_source, tiny_config
from profiler.iteration import make_arm
from rival_loops import Played, TextbookLoop, losses_of_frames, our_losses, replayed

NETWORKS = {
    "paper": {"encoder": "sum", "slice_weights": "softmax", "frame_embedding": False, "layers": 3, "dropout": 0.5},
    "small": {"projection_size": 3},
}


@pytest.fixture(params=NETWORKS)
def played(request, tmp_path):
    network = dataclasses.replace(TINY_NETWORK, **NETWORKS[request.param])
    config = tiny_config(observation="cube", penalty=0.5, policy=network)
    return Played(make_arm(config, marked_source(12), tmp_path))


def assert_same(policy, first, second):
    """Compare the losses and their gradients, which are not all zero."""
    assert first.scalars() == pytest.approx(second.scalars(), rel=1e-4)
    gradients = []
    for losses in (first, second):
        policy.zero_grad()
        losses.total.backward()
        gradients.append({name: parameter.grad for name, parameter in policy.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-6, msg=name)
        assert gradient.abs().max() > 0, name


def test_frames_with_autograd_learn_what_we_do(played):
    frames, rollout = losses_of_frames(played, torch.Generator().manual_seed(1))
    assert_same(played.arm.policy, frames, played.losses(played.arm.policy, rollout))
    ours, again = our_losses(played, torch.Generator().manual_seed(1))
    assert (again.cells == rollout.cells).all()
    assert ours.scalars() == pytest.approx(frames.scalars(), rel=1e-4)
    assert "step" not in vars(played.arm.policy)


def test_the_textbook_loop_learns_what_we_do(played):
    loop = TextbookLoop(played)
    textbook, rollout = loop.losses(torch.Generator().manual_seed(1))
    logits = replayed(played.arm.policy, rollout, played.masks)
    assert_same(played.arm.policy, textbook, played.losses(lambda *_, **__: logits, rollout))
    assert loop.components.grad.abs().max() > 0
