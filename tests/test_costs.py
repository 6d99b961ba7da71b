"""Costs of training, counted from sizes: against worked examples and against the counter of PyTorch."""

import dataclasses

import pytest
import torch
from agent_toys import marked_source, tiny_config
from glimpse_agents.learning.credit import Advantages
from glimpse_agents.learning.losses import glimpse_losses
from profiler.costs import (
    Cost,
    class_head,
    linear,
    lstm,
    policy_step,
    projection,
    rollout_costs,
    update_costs,
    update_forward,
)
from profiler.iteration import iterate, make_trainer, sizes_of
from torch.utils.flop_counter import FlopCounterMode

NETWORKS = {
    "what and where": {},
    "sum": {"encoder": "sum", "frame_embedding": False, "layers": 3},
    "skip": {"encoder": "sum", "skip": True, "layers": 2, "projection_size": 3},
    "narrow": {"projection_size": 2},
}
# Switching oneDNN off also queries other hardware.
COUNTS_FLOPS = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN:UserWarning")


@pytest.fixture(params=NETWORKS, ids=str)
def trainer(request):
    return make_trainer(tiny_config(observation="cube", **NETWORKS[request.param]), marked_source(12))


def flops_of(function):
    """Return the count of PyTorch, which knows the parts of an LSTM, but not the fused LSTM of oneDNN."""
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_linear_layer_by_hand():
    # 2 rows of 3 numbers through a 3 x 4 matrix: 24 multiplications and additions, 6 + 12 + 8 numbers.
    assert linear(2, 3, 4) == Cost(48, 4 * 26)


def test_lstm_by_hand(trainer):
    sizes = dataclasses.replace(sizes_of(trainer), clips=1, rollouts=2, frames=3, policy=tiny_config().policy)
    # Inputs of 6, states of 8, so 6 * 32 and 8 * 32 weights, for 2 * 3 frames.
    assert lstm(sizes, calls="frames").flops == lstm(sizes, calls="sequence").flops == 2 * 6 * 14 * 32
    read_again = 2 * 4 * 6 * 32  # the input weights, two more times
    assert lstm(sizes, calls="frames").bytes - lstm(sizes, calls="sequence").bytes == read_again


@COUNTS_FLOPS
def test_cost_of_the_update_equals_the_count_of_pytorch(trainer):
    iteration, sizes = iterate(trainer), sizes_of(trainer)
    played, masks = iteration.rollout, iteration.masks
    forward = flops_of(lambda: trainer.policy(played.first, played.rest, played.views, masks))
    assert forward == update_forward(sizes).flops

    def update():
        advantages = Advantages.of(played, trainer.config)
        losses = glimpse_losses(trainer.policy, played, masks, advantages, trainer.config, update=trainer.num_updates)
        losses.total.backward()

    assert flops_of(update) == sum(cost.flops for cost in update_costs(sizes).values())


@COUNTS_FLOPS
def test_cost_of_acting_equals_the_count_of_pytorch(trainer):
    sizes, policy = sizes_of(trainer), trainer.policy
    played = iterate(trainer).rollout

    def act():
        state = policy.memory.initial_state(sizes.episodes)
        for frame in range(sizes.frames):
            rest = frame and type(played.rest)(*(part[:, frame - 1] for part in played.rest))
            view = type(played.views)(*(part[:, 0] for part in played.views))
            _, _, state = policy.step(state, rest or played.first, view, None)

    assert flops_of(act) == policy_step(sizes).flops


def test_slices_of_one_clip_are_projected_once(trainer):
    sizes = sizes_of(trainer)
    glimpsed = dataclasses.replace(sizes, in_view="glimpsed")
    assert sizes.looks == 6 * (9 + 3 * 2)
    rows, looks = 3 * 4 * 9, 6 * (9 + 3 * 2)
    width = 2 * 4 * sizes.projected if sizes.projected < 4 else 0
    assert projection(sizes).flops == rows * width
    assert projection(glimpsed).flops == min(rows, looks) * width


def test_costs_grow_with_sizes(trainer):
    sizes = sizes_of(trainer)
    twice = dataclasses.replace(sizes, clips=2 * sizes.clips)
    for costs in (rollout_costs, update_costs):
        for name, cost in costs(sizes).items():
            assert costs(twice)[name].flops == 2 * cost.flops, name
            assert cost.bytes <= costs(twice)[name].bytes <= 2 * cost.bytes, name
    assert class_head(sizes, frames=2).flops == 2 * class_head(sizes, frames=1).flops
