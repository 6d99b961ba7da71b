"""The network: what it refuses, what it sees, and that an update sees the network that acted."""

import dataclasses
from itertools import permutations

import numpy as np
import pytest
import torch
from agent_toys import marked_source
from glimpse_agents.learning.glimpses import cells_log_prob, draw_cells
from glimpse_agents.learning.policy import (
    GlimpsePolicy,
    InputShape,
    Looks,
    PolicyConfig,
    RecurrentState,
    Views,
    slice_weights,
)
from glimpse_agents.playing.rollout import Manner, collect_rollout

from glimpse_env import VideoGlimpseVectorEnv

SHAPE = InputShape(grid_size=3, depth=4, outputs=3, frames=4)
SMALL = PolicyConfig(embedding_size=5, layers=2, hidden_size=6, projection_size=2, scorer_size=4)
MANNERS = {"greedy": Manner(greedy=True), "mirrored": Manner(mirror=True), "all": Manner(looking="all")}
DROPPING = dataclasses.replace(SMALL, dropout=0.5, input_dropout=0.2, scorer_dropout=0.3)


def wild_policy(config, seed=0):
    """Return a policy whose every parameter is drawn, those that start at zero too, so that all of it matters."""
    policy, generator = GlimpsePolicy(config, SHAPE), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        policy.components.copy_(torch.randn(policy.components.shape, generator=generator))
    return policy


def play(policy, manner=None, *, masks=None, episodes=6, seed=3):
    """Play episodes of marked clips with two looks in each frame."""
    source = marked_source(episodes)
    envs = VideoGlimpseVectorEnv(episodes, source=source, glimpses=2, observation="slices", autoreset_mode="Disabled")
    generator = torch.Generator().manual_seed(seed)
    return collect_rollout(envs, policy, np.arange(episodes), manner or Manner(), generator=generator, masks=masks)


def masks_for(policy, episodes=6, seed=4):
    return policy.draw_masks(episodes, torch.Generator().manual_seed(seed))


@torch.no_grad()
def step_through(policy, rollout, masks):
    """Return class and location logits of frame-by-frame play with the rollout's looks."""
    state, outputs = policy.initial_state(len(rollout.clips)), []
    for frame in range(rollout.class_logits.shape[1] - 1):
        looks = rollout.first if frame == 0 else Looks(*(part[:, frame - 1] for part in rollout.rest))
        view = None if rollout.views is None else Views(*(part[:, frame] for part in rollout.views))
        class_logits, cell_logits, state = policy.step(state, looks, view, masks)
        outputs.append((class_logits, cell_logits))
    assert state.frame == len(outputs)
    return tuple(torch.stack(parts, 1) for parts in zip(*outputs, strict=True))


# ---- the update sees the network that acted


@pytest.mark.parametrize("manner", MANNERS.values(), ids=MANNERS)
@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
@pytest.mark.parametrize("weights", ["uniform", "softmax"])
@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
@pytest.mark.parametrize("skip", [False, True])
def test_one_call_gives_what_playing_gave(skip, encoder, weights, in_view, manner):
    policy = wild_policy(
        dataclasses.replace(DROPPING, encoder=encoder, slice_weights=weights, skip=skip, unit_input=skip)
    )
    masks = masks_for(policy)
    rollout = play(policy, dataclasses.replace(manner, in_view=in_view), masks=masks)
    with torch.no_grad():
        class_logits, cell_logits = policy(rollout.first, rollout.rest, rollout.views, masks)
    assert class_logits.shape == (6, 4, 3)
    torch.testing.assert_close(class_logits, rollout.class_logits)
    stepped = step_through(policy, rollout, masks)
    torch.testing.assert_close(stepped[0], rollout.class_logits[:, :3])
    torch.testing.assert_close(stepped[1], cell_logits)
    if manner.greedy:
        assert (cell_logits.topk(2).indices == rollout.cells).all()
    assert (rollout.predictions == class_logits.argmax(2)).all()


def test_slice_weights_are_those_that_were_chosen_with():
    policy = wild_policy(dataclasses.replace(SMALL, encoder="sum", slice_weights="softmax"))
    rollout = play(policy)
    with torch.no_grad():
        _, cell_logits = policy(rollout.first, rollout.rest, rollout.views, None)
    expected = cell_logits.gather(2, rollout.cells).softmax(2)
    torch.testing.assert_close(rollout.rest.weights, expected)
    assert (expected.std(2) > 1e-3).any()
    torch.testing.assert_close(rollout.first.weights, torch.full((6, 9), 1 / 9))


def test_masks_are_drawn_once_for_an_episode():
    policy = wild_policy(DROPPING)
    masks = masks_for(policy)
    # (layers' inputs, head, scorer): each episode has a mask of its own, and no frame axis.
    assert [mask.shape for mask in masks.inputs] == [(6, 5), (6, 6)]
    assert masks.head.shape == (6, 6)
    assert masks.scorer.shape == (6, 4)
    rollout = play(policy, masks=masks)
    with torch.no_grad():
        other, _ = policy(rollout.first, rollout.rest, rollout.views, masks_for(policy, seed=5))
        without, _ = policy(rollout.first, rollout.rest, rollout.views, None)
    for logits in (other, without):
        assert (logits - rollout.class_logits).abs().max() > 1e-2


def test_masks_keep_the_mean_and_drop_the_share_asked_for():
    config = dataclasses.replace(SMALL, dropout=0.5, input_dropout=0.2, scorer_dropout=0.0)
    masks = masks_for(GlimpsePolicy(config, SHAPE), episodes=20_000)
    for mask, share in ((masks.inputs[0], 0.2), (masks.inputs[1], 0.5), (masks.head, 0.5), (masks.scorer, 0.0)):
        assert sorted(mask.unique().tolist()) == pytest.approx([0.0, 1 / (1 - share)] if share else [1.0])
        assert mask.mean().item() == pytest.approx(1.0, abs=0.02)


# ---- what the network is made of


@pytest.mark.parametrize(
    ("config", "count"),
    [
        # Two LSTM layers of 4 gates, each with two biases; head and classes; what scores cells: a convolution over
        # P + 2 channels, Wd, e, u and the repulsion.
        (
            dataclasses.replace(SMALL, encoder="sum", frame_embedding=False),
            4 * 6 * (4 + 6 + 2) + 4 * 6 * (6 + 6 + 2) + (6 * 6 + 6) + (6 * 3 + 3)
            + (4 * 9 * 4 + 4) + 6 * 4 + 9 * 4 + 4 + 1,
        ),
        # A slice embedding with its bias, one for cells, one for frames, and an LSTM as wide.
        (
            dataclasses.replace(SMALL, layers=1),
            (4 * 5 + 5) + 9 * 5 + 4 * 5 + 4 * 6 * (5 + 6 + 2) + (6 * 6 + 6) + (6 * 3 + 3)
            + (4 * 9 * 4 + 4) + 6 * 4 + 9 * 4 + 4 + 1,
        ),
    ],
    ids=["sum", "what_and_where"],
)  # fmt: skip
def test_it_has_the_parameters_it_should(config, count):
    policy = GlimpsePolicy(config, SHAPE)
    assert sum(parameter.numel() for parameter in policy.parameters()) == count
    scorer = {id(parameter) for parameter in policy.scorer_parameters()}
    named = {name for name, parameter in policy.named_parameters() if id(parameter) in scorer}
    assert named == {"place", "repulsion", "visible.weight", "visible.bias", "state.weight", "score.weight"}


@pytest.mark.parametrize("name", ["embedding_size", "layers", "hidden_size", "projection_size", "scorer_size"])
def test_sizes_are_positive(name):
    with pytest.raises(ValueError, match=f"policy.{name} must be at least 1, got 0"):
        PolicyConfig(**{name: 0})


@pytest.mark.parametrize("name", ["dropout", "input_dropout", "scorer_dropout"])
@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_dropout_is_a_share(name, share):
    with pytest.raises(ValueError, match=rf"policy.{name} must lie in \[0, 1\), got {share}"):
        PolicyConfig(**{name: share})


def test_weights_of_another_network_do_not_load():
    other = GlimpsePolicy(SMALL, dataclasses.replace(SHAPE, outputs=5)).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for classes.weight"):
        GlimpsePolicy(SMALL, SHAPE).load_state_dict(other)


def test_the_plain_sum_is_eq_3_and_what_and_where_knows_the_place():
    slices = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(1))
    cells, weights = torch.tensor([[7, 2], [0, 8]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    plain = wild_policy(dataclasses.replace(SMALL, encoder="sum"))
    expected = torch.stack([0.25 * slices[0, 0] + 0.75 * slices[0, 1], slices[1].mean(0)])
    torch.testing.assert_close(plain.encode(plain.attend(slices, cells, weights)), expected)

    placed = wild_policy(SMALL)
    alike = torch.ones(1, 2, 4)  # the same slice everywhere
    half = torch.tensor([[0.5, 0.5]])
    here, there = (placed.encode(placed.attend(alike, torch.tensor([c]), half)) for c in ([0, 1], [7, 8]))
    assert (here - there).abs().max() > 0.1
    slices = torch.relu(placed.what(alike[0]) + placed.where(torch.tensor([0, 1])))
    torch.testing.assert_close(here[0] / here[0].norm(), slices.sum(0) / slices.sum(0).norm())


def test_the_frame_number_is_part_of_the_input():
    policy = wild_policy(dataclasses.replace(SMALL, encoder="sum"))
    looks = policy.attend(torch.ones(1, 9, 4), torch.arange(9)[None], torch.full((1, 9), 1 / 9))
    view = Views(torch.ones(1, 9, 2), torch.ones(1, 9), torch.zeros(1, 9))
    layers = policy.initial_state(1).layers
    early, late = (policy.step(RecurrentState(layers, frame), looks, view, None)[0] for frame in (0, 3))
    assert (early - late).abs().max() > 1e-3


@pytest.mark.parametrize("heard", [True, False])
def test_the_state_speaks_in_the_location_logits_if_it_may(heard):
    policy = wild_policy(dataclasses.replace(SMALL, hidden_in_scorer=heard))
    views = Views(torch.ones(1, 1, 9, 2), torch.ones(1, 1, 9), torch.zeros(1, 1, 9))
    logits = [policy.cell_logits(torch.full((1, 1, 6), value), views, None) for value in (0.0, 1.0)]
    assert bool((logits[0] != logits[1]).any()) is heard


@pytest.mark.parametrize("part", range(3))
def test_neighbours_of_what_is_visible_are_scored_by_it(part):
    """What is seen of cell 0, that it was seen, and how often, change the logits of cells 0, 1, 3 and 4 alone."""
    policy = wild_policy(SMALL)
    views = Views(torch.zeros(1, 1, 9, 2), torch.zeros(1, 1, 9), torch.zeros(1, 1, 9))
    changed = [field.clone() for field in views]
    changed[part][0, 0, 0] = 1.0
    hidden = torch.zeros(1, 1, 6)
    moved = policy.cell_logits(hidden, Views(*changed), None) != policy.cell_logits(hidden, views, None)
    assert moved.flatten().nonzero().flatten().tolist() == [0, 1, 3, 4]


def test_cells_that_were_chosen_before_are_avoided_as_strongly_as_learned():
    policy = GlimpsePolicy(dataclasses.replace(SMALL, repulsion=6.0), SHAPE)
    visits = torch.tensor([0.0, 1.0, 2.0] * 3)
    with torch.no_grad():
        policy.score.weight.zero_()
    logits = policy.cell_logits(
        torch.zeros(1, 1, 6), Views(torch.zeros(1, 1, 9, 2), visits[None, None], visits[None, None]), None
    )
    assert logits[0, 0].tolist() == pytest.approx([0.0, -3.0, -4.0] * 3)  # 6 v / (1 + v) less
    logits.sum().backward()
    assert policy.repulsion.grad.item() == pytest.approx(-3 * (1 / 2 + 2 / 3))


def test_uniform_slice_weights_ignore_the_logits():
    logits, cells = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[1, 2]])
    assert slice_weights(logits, cells, "uniform").tolist() == [[0.5, 0.5]]
    expected = torch.tensor([[3.0, 1.0]]).softmax(1)
    torch.testing.assert_close(slice_weights(logits, cells, "softmax"), expected)


# ---- principal components


def test_the_projection_spans_the_largest_components():
    rng = torch.Generator().manual_seed(6)
    basis, _ = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64))
    scales = torch.tensor([3.0, 0.01, 1.0, 0.02], dtype=torch.float64)
    slices = (torch.randn(3000, 4, generator=rng, dtype=torch.float64) * scales) @ basis.T + 5.0
    policy = GlimpsePolicy(SMALL, SHAPE)
    policy.fit_components(slices)
    seen = policy.components.double()
    # Largest first: the two columns are the directions of deviations 3 and 1, up to sign and a common scale.
    cosines = (seen / seen.norm(dim=0)).T @ basis[:, [0, 2]]
    torch.testing.assert_close(cosines.abs(), torch.eye(2, dtype=torch.float64), atol=0.02, rtol=0.0)
    assert policy.project(slices.float()).std(0)[0] > policy.project(slices.float()).std(0)[1]
    projected = (slices - slices.mean(0)).float() @ policy.components
    assert projected.std().item() == pytest.approx(1.0, abs=1e-4)


def test_narrow_slices_are_seen_as_they_are():
    policy = GlimpsePolicy(dataclasses.replace(SMALL, projection_size=32), SHAPE)
    policy.fit_components(torch.randn(50, 4))
    cubes = torch.randn(2, 9, 4)
    assert (policy.project(cubes) == cubes).all()


def test_components_are_kept_with_the_weights():
    policy = wild_policy(SMALL)
    other = GlimpsePolicy(SMALL, SHAPE)
    other.load_state_dict(policy.state_dict())
    assert (other.components == policy.components).all()


# ---- gradients


@pytest.mark.parametrize("detached", [True, False])
def test_location_logits_reach_the_lstm_unless_detached(detached):
    policy = wild_policy(SMALL)
    rollout = play(policy)
    _, cell_logits = policy(rollout.first, rollout.rest, rollout.views, None, detach_scorer=detached)
    cell_logits.square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in policy.scorer_parameters())
    scorer = {id(parameter) for parameter in policy.scorer_parameters()}
    rest = [
        parameter for name, parameter in policy.named_parameters() if id(parameter) not in scorer and "lstm" in name
    ]
    assert all((parameter.grad is None) is detached for parameter in rest)


def test_class_logits_reach_all_but_the_location_logits():
    policy = wild_policy(SMALL)
    rollout = play(policy)
    policy(rollout.first, rollout.rest, rollout.views, None)[0].square().sum().backward()
    scorer = {id(parameter) for parameter in policy.scorer_parameters()}
    for parameter in policy.parameters():
        assert (parameter.grad is None) is (id(parameter) in scorer)


def test_the_state_is_dropped_on_its_way_past_the_skip():
    policy = wild_policy(dataclasses.replace(DROPPING, skip=True))
    masks = masks_for(policy)
    hidden, inputs = torch.randn(2, 6, 4, 6), torch.randn(6, 4, policy.input_size)
    silent = dataclasses.replace(masks, state=torch.zeros_like(masks.state))
    assert torch.equal(*(policy.class_logits(state, inputs, silent) for state in hidden))
    assert not torch.equal(*(policy.class_logits(state, inputs, masks) for state in hidden))
    assert not torch.equal(
        policy.class_logits(hidden[0], inputs, masks), policy.class_logits(hidden[0], 2 * inputs, masks)
    )


# ---- cells drawn in sequence

SEQUENTIAL = dataclasses.replace(DROPPING, glimpse_order="sequential")


def logits_of(policy, rollout, masks=None):
    with torch.no_grad():
        return policy(rollout.first, rollout.rest, rollout.views, masks)[1]


@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
@pytest.mark.parametrize("mirror", [False, True])
def test_each_cell_is_the_likeliest_by_the_updates_logits_of_its_draw(mirror, in_view):
    policy = wild_policy(SEQUENTIAL)
    with torch.no_grad():
        policy.query.weight.mul_(5)
    masks = masks_for(policy)
    rollout = play(policy, Manner(greedy=True, mirror=mirror, in_view=in_view), masks=masks)
    logits = logits_of(policy, rollout, masks)
    assert logits.shape == (6, 3, 2, 9)
    assert (logits[:, :, 0].argmax(2) == rollout.cells[..., 0]).all()
    left = logits[:, :, 1].scatter(2, rollout.cells[..., :1], -torch.inf)
    assert (left.argmax(2) == rollout.cells[..., 1]).all()
    assert (logits[:, :, 0].topk(2).indices != rollout.cells).any()  # a joint draw would have looked elsewhere


@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
def test_logits_when_acting_are_those_of_the_update(in_view):
    policy = wild_policy(SEQUENTIAL)
    masks, seen = masks_for(policy), []
    score = policy._score
    policy._score = lambda *parts: seen.append(score(*parts)) or seen[-1]
    rollout = play(policy, Manner(in_view=in_view, mirror=True), masks=masks)
    del policy._score
    acted = torch.cat(seen, 1).reshape(6, 4, 3, 9)[:, :3]  # of the step itself, and of each of two draws
    assert torch.equal(acted[:, :, 0], acted[:, :, 1])
    torch.testing.assert_close(logits_of(policy, rollout, masks), acted[:, :, 1:], rtol=1e-4, atol=1e-5)


def test_the_probabilities_of_all_sequences_sum_to_one_and_are_those_of_drawing():
    policy = wild_policy(dataclasses.replace(SEQUENTIAL, hidden_in_scorer=False))
    rollout = play(policy, Manner(in_view="cube"))
    orders = torch.tensor(list(permutations(range(9), 3)))  # (504, 3)
    hidden = torch.zeros(1, 1, 6)
    view = Views(*(part[:1, 1] for part in rollout.views))
    views = Views(*(part[:, None].expand(504, 1, *part.shape[1:]) for part in view))
    with torch.no_grad():
        logits = policy.sequence_logits(hidden.expand(504, -1, -1), views, orders[:, None], None)
        log_probs = cells_log_prob(logits, orders[:, None])[:, 0]
        count, generator = 40_000, torch.Generator().manual_seed(1)
        many = Views(*(part.expand(count, *part.shape[1:]) for part in view))
        drawn = policy.draw_in_sequence(
            hidden[0].expand(count, -1), many, None, glimpses=3, draw=lambda part: draw_cells(part, 1, generator)
        )
    probabilities = log_probs.double().exp()
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-5)
    index = torch.tensor([81, 9, 1])
    shares = (drawn @ index).bincount(minlength=729)[orders @ index].double() / count
    assert ((shares - probabilities).abs() <= 4.5 * (probabilities * (1 - probabilities) / count).sqrt() + 1e-4).all()


def test_a_query_that_nothing_moves_draws_jointly():
    policy = wild_policy(SEQUENTIAL)
    with torch.no_grad():
        policy.query.weight.zero_()
    rollout = play(policy)
    logits = logits_of(policy, rollout)
    joint = GlimpsePolicy(DROPPING, SHAPE)
    joint.load_state_dict({name: weight for name, weight in policy.state_dict().items() if name != "query.weight"})
    expected = logits_of(joint, rollout)
    assert (logits == expected[:, :, None]).all()
    assert torch.equal(cells_log_prob(logits, rollout.cells), cells_log_prob(expected, rollout.cells))


def test_a_sequential_policy_begins_as_a_joint_one():
    fresh = []
    for config in (DROPPING, SEQUENTIAL):
        torch.manual_seed(1)
        fresh.append(GlimpsePolicy(config, SHAPE).state_dict())
    assert set(fresh[1]) - set(fresh[0]) == {"query.weight"}
    assert all(torch.equal(fresh[1][name], weight) for name, weight in fresh[0].items())
    assert not fresh[1]["query.weight"].any()


def test_the_query_moves_by_what_was_visible_at_the_cells_drawn_before():
    policy = wild_policy(dataclasses.replace(SEQUENTIAL, repulsion=0.0))
    rollout = play(policy)
    logits = logits_of(policy, rollout)
    content = rollout.views.content.clone()
    content[:, 1].scatter_(1, rollout.cells[:, 1, 1:, None].expand(-1, -1, 2), 0.0)  # at the last cell drawn
    blind = rollout.views._replace(content=content)
    hidden = torch.zeros(6, 3, 6)
    with torch.no_grad():
        last, first = (
            policy._moves(views, rollout.cells)[:, 1] - policy._moves(rollout.views, rollout.cells)[:, 1]
            for views in (blind, rollout.views._replace(content=torch.zeros_like(content)))
        )
        silent = policy.sequence_logits(hidden, rollout.views._replace(content=0 * content), rollout.cells, None)
    assert not last[:, 0].any()
    assert (first[:, 0] != 0).any(1).sum() == rollout.views.seen[:, 1].gather(1, rollout.cells[:, 1, :1]).sum()
    assert torch.equal(silent[:, :, 0], silent[:, :, 1])  # what cannot be seen moves nothing
    assert (logits[:, :, 0] != logits[:, :, 1]).any()


def test_the_gradient_of_a_sequence_reaches_the_query():
    policy = wild_policy(SEQUENTIAL)
    with torch.no_grad():
        policy.query.weight.zero_()  # as at the start
    rollout = play(policy)
    _, logits = policy(rollout.first, rollout.rest, rollout.views, None)
    cells_log_prob(logits, rollout.cells).sum().backward()
    assert policy.query.weight.grad.abs().max() > 1e-3
    assert any(parameter is policy.query.weight for parameter in policy.scorer_parameters())
