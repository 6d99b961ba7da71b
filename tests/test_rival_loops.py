"""Training loops of the benchmarks: for the same episodes, their losses and gradients equal ours."""

import pytest
import torch
from agent_toys import marked_source, tiny_config
from glimpse_agents.parallel.noise import Noise
from profiler.iteration import make_trainer
from rival_loops import Played, TextbookLoop, losses_of_frames, our_losses, replayed

NETWORKS = {
    "paper": {"encoder": "sum", "slice_weights": "softmax", "frame_embedding": False, "layers": 3, "dropout": 0.5},
    "small": {"projection_size": 3},
}


@pytest.fixture(params=NETWORKS)
def played(request):
    config = tiny_config(observation="cube", penalty=0.5, **NETWORKS[request.param])
    return Played(make_trainer(config, marked_source(12)))


def assert_same(policy, first, second):
    """Compare the losses and their gradients, none of which is zero."""
    assert first.scalars() == pytest.approx(second.scalars(), rel=1e-4)
    gradients = []
    for losses in (first, second):
        policy.zero_grad()
        losses.total.backward()
        gradients.append({name: parameter.grad for name, parameter in policy.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-6, msg=name)
        assert gradient.abs().max() > 0, name


def test_autograd_in_frames_gives_our_losses_and_gradients(played):
    frames, rollout = losses_of_frames(played, Noise.seeded(1))
    assert_same(played.trainer.policy, frames, played.losses(played.trainer.policy, rollout))
    ours, again = our_losses(played, Noise.seeded(1))
    assert (again.cells == rollout.cells).all()
    assert ours.scalars() == pytest.approx(frames.scalars(), rel=1e-4)
    assert "step" not in vars(played.trainer.policy)


def test_textbook_loop_gives_our_losses_and_gradients(played):
    loop = TextbookLoop(played)
    textbook, rollout = loop.losses(Noise.seeded(1))
    logits = replayed(played.trainer.policy, rollout, played.masks)
    assert_same(played.trainer.policy, textbook, played.losses(lambda *_, **__: logits, rollout))
    assert loop.components.grad.abs().max() > 0
