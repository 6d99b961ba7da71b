"""The network: its parts, and that an update computes the network that acted."""

import dataclasses
from itertools import permutations

import numpy as np
import pytest
import torch
from agent_toys import marked_source
from glimpse_agents.learning.config import Config
from glimpse_agents.learning.episodes import InputShape, Looks, Views
from glimpse_agents.learning.glimpses import cells_log_prob, draw_cells
from glimpse_agents.learning.location import UsualSlices
from glimpse_agents.learning.models import MODELS
from glimpse_agents.learning.policy import GlimpsePolicy, RecurrentState, slice_weights
from glimpse_agents.parallel.noise import Noise, Share
from glimpse_agents.playing.players import Mirror, PlaySettings
from glimpse_agents.playing.rollout import collect_rollout

from glimpse_env import VideoGlimpseVectorEnv

SHAPE = InputShape(grid_size=3, depth=4, outputs=3, frames=4)
UNTRIMMED = dataclasses.replace(SHAPE, trimmed=False)
SETTINGS = {
    "greedy": PlaySettings(greedy=True), "mirrored": PlaySettings(mirror=True), "all": PlaySettings(model=MODELS["all"])
}  # fmt: skip
DROPPING = {"dropout": 0.5, "input_dropout": 0.2, "scorer_dropout": 0.3}
REMEMBERING = {"scorer": "memory", "slice_weights": "attended", "standardise": True}


def network(**settings):
    """Return the configuration of a small network."""
    small = {"embedding_size": 5, "layers": 2, "hidden_size": 6, "projection_size": 2, "scorer_size": 4}
    return Config().with_settings(small | settings).policy


def new_policy(shape=SHAPE, **settings):
    return GlimpsePolicy(network(**settings), shape)


def wild_policy(seed=0, **settings):
    """Return a policy with all parameters drawn, also those that start at zero, so that each has an effect."""
    policy, generator = new_policy(**settings), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for name, buffer in policy.named_buffers():
            drawn = torch.randn(buffer.shape, generator=generator)
            buffer.copy_(drawn.exp() if name == "scale.std" else drawn)
    return policy


def play(policy, settings=None, *, masks=None, episodes=6, seed=3, source=None, **rules):
    """Play episodes of marked clips with two looks in each frame."""
    rules = {"glimpses": 2, "observation": "slices", "autoreset_mode": "Disabled"} | rules
    envs = VideoGlimpseVectorEnv(episodes, source=source or marked_source(episodes), **rules)
    settings = settings or PlaySettings()
    return collect_rollout(envs, policy, np.arange(episodes), settings, noise=Noise.seeded(seed), masks=masks)


def masks_for(policy, episodes=6, seed=4):
    return policy.draw_masks(episodes, Noise.seeded(seed))


@torch.no_grad()
def step_through(policy, rollout, masks):
    """Return class and location logits of the rollout's looks, computed frame by frame."""
    state, outputs = policy.memory.initial_state(len(rollout.clips)), []
    for frame in range(rollout.class_logits.shape[1] - 1):
        looks = rollout.first if frame == 0 else Looks(*(part[:, frame - 1] for part in rollout.rest))
        view = None if rollout.views is None else Views(*(part[:, frame] for part in rollout.views))
        class_logits, cell_logits, state = policy.step(state, looks, view, masks)
        outputs.append((class_logits, cell_logits))
    assert state.frame == len(outputs)
    return tuple(torch.stack(parts, 1) for parts in zip(*outputs, strict=True))


# ---- an update computes the network that acted


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
@pytest.mark.parametrize("weights", ["uniform", "softmax"])
@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
@pytest.mark.parametrize("skip", [False, True])
def test_forward_over_episodes_equals_play(skip, encoder, weights, in_view, settings):
    policy = wild_policy(**DROPPING, encoder=encoder, slice_weights=weights, skip=skip, unit_input=skip)
    masks = masks_for(policy)
    rollout = play(policy, dataclasses.replace(settings, in_view=in_view), masks=masks)
    with torch.no_grad():
        class_logits, cell_logits, _ = policy(rollout.first, rollout.rest, rollout.views, masks)
    assert class_logits.shape == (6, 4, 3)
    torch.testing.assert_close(class_logits, rollout.class_logits)
    stepped = step_through(policy, rollout, masks)
    torch.testing.assert_close(stepped[0], rollout.class_logits[:, :3])
    torch.testing.assert_close(stepped[1], cell_logits)
    if settings.greedy:
        assert (cell_logits.topk(2).indices == rollout.cells).all()
    assert (rollout.predictions == class_logits.argmax(2)).all()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("weights", ["uniform", "softmax", "attended"])
@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
@pytest.mark.parametrize("order", ["joint", "sequential"])
def test_forward_with_a_memory_equals_play(order, encoder, weights, settings):
    chosen = {"encoder": encoder, "slice_weights": weights, "glimpse_order": order}
    policy = wild_policy(**DROPPING | REMEMBERING | chosen)
    masks = masks_for(policy)
    rollout = play(policy, settings, masks=masks)
    with torch.no_grad():
        class_logits, cell_logits, _ = policy(rollout.first, rollout.rest, rollout.views, masks)
    stepped = step_through(policy, rollout, masks)
    torch.testing.assert_close(class_logits, rollout.class_logits, rtol=1e-4, atol=1e-4)
    first = cell_logits if cell_logits.ndim == 3 else cell_logits[:, :, 0]
    torch.testing.assert_close(stepped[1], first, rtol=1e-4, atol=1e-4)
    if settings.greedy and order == "joint":
        assert (cell_logits.topk(2).indices == rollout.cells).all()


def test_slice_weights_are_the_softmax_of_the_logits_that_chose():
    policy = wild_policy(encoder="sum", slice_weights="softmax")
    rollout = play(policy)
    with torch.no_grad():
        _, cell_logits, _ = policy(rollout.first, rollout.rest, rollout.views, None)
    expected = cell_logits.gather(2, rollout.cells).softmax(2)
    torch.testing.assert_close(rollout.rest.weights, expected)
    assert (expected.std(2) > 1e-3).any()
    torch.testing.assert_close(rollout.first.weights, torch.full((6, 9), 1 / 9))


def test_dropout_is_drawn_once_per_episode():
    policy = wild_policy(**DROPPING)
    masks = masks_for(policy)
    # Each episode has its own masks, without a frame axis.
    assert [mask.shape for mask in masks.inputs] == [(6, 5), (6, 6)]
    assert masks.head.shape == (6, 6)
    assert masks.scorer.shape == (6, 4)
    rollout = play(policy, masks=masks)
    with torch.no_grad():
        other, *_ = policy(rollout.first, rollout.rest, rollout.views, masks_for(policy, seed=5))
        without, *_ = policy(rollout.first, rollout.rest, rollout.views, None)
    for logits in (other, without):
        assert (logits - rollout.class_logits).abs().max() > 1e-2


def test_dropout_keeps_the_mean_and_drops_the_configured_share():
    policy = new_policy(dropout=0.5, input_dropout=0.2)
    masks = masks_for(policy, episodes=20_000)
    for mask, share in ((masks.inputs[0], 0.2), (masks.inputs[1], 0.5), (masks.head, 0.5), (masks.scorer, 0.0)):
        assert sorted(mask.unique().tolist()) == pytest.approx([0.0, 1 / (1 - share)] if share else [1.0])
        assert mask.mean().item() == pytest.approx(1.0, abs=0.02)


def test_ranks_drop_the_rows_of_one_batch():
    policy = new_policy(**DROPPING)
    whole = masks_for(policy, episodes=6)
    for rank in range(3):
        part = policy.draw_masks(2, Noise.seeded(4, share=Share(rank, 3)))
        rows = slice(2 * rank, 2 * rank + 2)
        for ours, theirs in zip(part.inputs, whole.rows(rows).inputs, strict=True):
            assert torch.equal(ours, theirs)
        assert torch.equal(part.head, whole.head[rows])
        assert torch.equal(part.scorer, whole.scorer[rows])


# ---- parts of the network


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        # Two LSTM layers of 4 gates, each with two biases; class head; location head: a convolution over P + 2
        # channels, Wd, e, u and the repulsion.
        (
            {"encoder": "sum", "frame_embedding": False},
            4 * 6 * (4 + 6 + 2) + 4 * 6 * (6 + 6 + 2) + (6 * 6 + 6) + (6 * 3 + 3)
            + (4 * 9 * 4 + 4) + 6 * 4 + 9 * 4 + 4 + 1,
        ),
        # A slice embedding with its bias, one for cells, one for frames, and an LSTM of the same width.
        (
            {"layers": 1},
            (4 * 5 + 5) + 9 * 5 + 4 * 5 + 4 * 6 * (5 + 6 + 2) + (6 * 6 + 6) + (6 * 3 + 3)
            + (4 * 9 * 4 + 4) + 6 * 4 + 9 * 4 + 4 + 1,
        ),
    ],
    ids=["sum", "what_and_where"],
)  # fmt: skip
def test_number_of_parameters(settings, count):
    policy = new_policy(**settings)
    assert sum(parameter.numel() for parameter in policy.parameters()) == count
    named = {name for name, _ in policy.location_head.named_parameters()}
    assert named == {"place", "repulsion", "visible.weight", "visible.bias", "state.weight", "score.weight"}


def test_every_parameter_belongs_to_a_part_of_the_paper():
    policy = new_policy(dataclasses.replace(SHAPE, values=1, starts_from_mean=True))
    parts = {name.split(".")[0] for name, _ in policy.named_parameters()}
    assert parts == {"encoder", "memory", "location_head", "class_head", "value_head"}


def test_weights_of_another_network_do_not_load():
    other = new_policy(dataclasses.replace(SHAPE, outputs=5)).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for class_head.classes.weight"):
        new_policy().load_state_dict(other)


def test_plain_sum_is_eq_3():
    slices = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(1))
    cells, weights = torch.tensor([[7, 2], [0, 8]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    encoder = wild_policy(encoder="sum").encoder
    expected = torch.stack([0.25 * slices[0, 0] + 0.75 * slices[0, 1], slices[1].mean(0)])
    torch.testing.assert_close(encoder(encoder.attend(slices, cells, weights)), expected)


def test_what_and_where_encodes_the_place_of_a_slice():
    encoder = wild_policy().encoder
    same, half = torch.ones(1, 2, 4), torch.tensor([[0.5, 0.5]])  # the same slice everywhere
    here, there = (encoder(encoder.attend(same, torch.tensor([cells]), half)) for cells in ([0, 1], [7, 8]))
    assert (here - there).abs().max() > 0.1
    slices = torch.relu(encoder.what(same[0]) + encoder.where(torch.tensor([0, 1])))
    torch.testing.assert_close(here[0] / here[0].norm(), slices.sum(0) / slices.sum(0).norm())


def test_frame_number_is_part_of_the_input():
    policy = wild_policy(encoder="sum")
    looks = policy.encoder.attend(torch.ones(1, 9, 4), torch.arange(9)[None], torch.full((1, 9), 1 / 9))
    view = Views(torch.ones(1, 9, 2), torch.ones(1, 9), *[torch.zeros(1, 9)] * 3)
    layers = policy.memory.initial_state(1).layers
    early, late = (policy.step(RecurrentState(layers, frame), looks, view, None)[0] for frame in (0, 3))
    assert (early - late).abs().max() > 1e-3


def test_location_logits_depend_on_the_state():
    head = wild_policy().location_head
    views = Views(torch.ones(1, 1, 9, 2), torch.ones(1, 1, 9), *[torch.zeros(1, 1, 9)] * 3)
    logits = [head(torch.full((1, 1, 6), value), views, None) for value in (0.0, 1.0)]
    assert (logits[0] != logits[1]).any()


@pytest.mark.parametrize("part", range(3))
def test_visible_cells_change_the_logits_of_their_neighbours(part):
    """Content, visibility and visits of cell 0 change only the logits of cells 0, 1, 3 and 4."""
    head = wild_policy().location_head
    views = Views(torch.zeros(1, 1, 9, 2), *[torch.zeros(1, 1, 9)] * 4)
    changed = [field.clone() for field in views]
    changed[part][0, 0, 0] = 1.0
    hidden = torch.zeros(1, 1, 6)
    moved = head(hidden, Views(*changed), None) != head(hidden, views, None)
    assert moved.flatten().nonzero().flatten().tolist() == [0, 1, 3, 4]


def test_repulsion_lowers_the_logits_of_visited_cells_and_is_learned():
    head = new_policy(repulsion=6.0).location_head
    visits = torch.tensor([0.0, 1.0, 2.0] * 3)
    with torch.no_grad():
        head.score.weight.zero_()
    views = Views(torch.zeros(1, 1, 9, 2), *[visits[None, None]] * 4)
    logits = head(torch.zeros(1, 1, 6), views, None)
    assert logits[0, 0].tolist() == pytest.approx([0.0, -3.0, -4.0] * 3)  # 6 v / (1 + v) less
    logits.sum().backward()
    assert head.repulsion.grad.item() == pytest.approx(-3 * (1 / 2 + 2 / 3))


def test_uniform_slice_weights_ignore_the_logits():
    logits, cells = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[1, 2]])
    assert slice_weights(logits, cells, "uniform").tolist() == [[0.5, 0.5]]
    expected = torch.tensor([[3.0, 1.0]]).softmax(1)
    torch.testing.assert_close(slice_weights(logits, cells, "softmax"), expected)


# ---- a memory of every cell


def test_views_hold_a_running_mean_of_the_slices_seen_of_each_cell_and_its_age():
    policy = wild_policy(**REMEMBERING)
    rollout = play(policy, PlaySettings(model=MODELS["reinforce"]))
    cubes = torch.from_numpy(marked_source(6).features).flatten(2, 3)  # (N, T, 9, 4)
    seen = rollout.views.seen
    with torch.no_grad():
        shown = policy.location_head.what((cubes[:, :3] - policy.scale.mean) / policy.scale.std)
        known = policy.location_head.remembered(rollout.first, rollout.rest, rollout.views.seen)
    assert seen[:, 0].all()  # the first glance
    expected, age = shown[:, 0], torch.zeros(6, 9)
    for frame in range(3):
        here = seen[:, frame] > 0
        fresh = (expected + shown[:, frame]) / 2 if frame else expected
        expected, age = torch.where(here[..., None], fresh, expected), torch.where(here, 0, age + 1)
        torch.testing.assert_close(rollout.views.content[:, frame], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(known[:, frame], expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(rollout.views.age[:, frame], age)
    assert age.max() == 2


@pytest.mark.parametrize("first_glance", ["whole", "none"])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("model", ["reinforce", "random", "all", "unlimited"])
def test_change_is_the_distance_of_a_slice_from_those_before_beyond_the_usual_one(model, mirror, first_glance):
    if model == "all" and first_glance == "none":
        pytest.skip("it sees frame 1 whole")
    policy = wild_policy(shape=UNTRIMMED, **REMEMBERING)
    settings = PlaySettings(model=MODELS[model], mirror=mirror)
    cubes = marked_source(6).features + np.random.default_rng(0).normal(size=(6, 4, 3, 3, 4)).astype(np.float32)
    source = dataclasses.replace(marked_source(6), features=cubes - cubes.min())
    policy.fit(*(torch.from_numpy(source.features[:, frame]).flatten(0, 2) for frame in (2, 0)))
    if model == "unlimited":  # look at each cell with probability 1/2
        head = policy.location_head
        for parameter in (head.score.weight, head.age_weight, head.change_weight):
            parameter.data.zero_()
    first = policy.location_head.usual_distance.item()
    rules = {"glimpses": None} if model == "unlimited" else {}
    rollout = play(policy, settings, source=source, first_glance=first_glance, **rules)
    slices = policy.scale(torch.from_numpy(source.features).flatten(2, 3)).numpy()  # (N, T, 9, 4)
    flip = np.arange(9).reshape(3, 3)[:, ::-1].ravel()
    mirrored = Mirror(6, 3, settings, Noise.seeded(3)).cells(torch.zeros(6, 1, dtype=torch.int64))[:, 0] > 0
    usual, kept, changes, small = {}, torch.zeros(6, 9), [], 0  # of (episode, cell): the mean, and the distance from it
    for episode, frame in np.ndindex(6, 4):
        looks = rollout.first if frame == 0 else Looks(*(part[:, frame - 1] for part in rollout.rest))
        for cell, weight, change in zip(
            looks.cells[episode], looks.weights[episode], looks.change[episode], strict=True
        ):
            if weight == 0:
                assert change == 0
                continue
            key = (episode, cell.item())
            shown = slices[episode, frame, flip[key[1]] if mirrored[episode] else key[1]]
            if key not in usual:
                usual[key], expected = (shown, first), 0.0
            else:
                mean, distance = usual[key]
                far = np.linalg.norm(shown - mean) / (np.linalg.norm(shown) + np.linalg.norm(mean))
                excess = far - distance
                share = 0.2 * min(1, 0.05 / max(excess, 1e-9))
                usual[key] = (mean + share * (shown - mean), distance + share * excess)
                expected = max(excess - 0.1, 0)
                small += 0 < excess < 0.1
            assert change.item() == pytest.approx(expected, abs=1e-5)
            changes.append(expected)
            kept[key] = change
        if rollout.views is not None and frame < 3:
            assert torch.equal(rollout.views.change[episode, frame], kept[episode])
    assert max(changes) > 0.04
    assert small or model == "random"  # it looks at few cells twice
    assert mirrored.any() == mirror


def test_slices_that_are_not_seen_are_not_remembered():
    usual, cells = UsualSlices(2, torch.tensor(0.5)), torch.tensor([[0, 1]])
    one, two = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]]), torch.tensor([[[0.0, 2.0], [0.0, 2.0]]])
    assert usual.add(one, cells, torch.tensor([[1.0, 0.0]])).tolist() == [[0, 0]]
    assert usual.add(two, cells, torch.ones(1, 2))[0].tolist() == pytest.approx([8**0.5 / 4 - 0.6, 0])


def test_event_is_a_change_while_it_lasts_and_not_after_it():
    noise = torch.Generator().manual_seed(0)
    before, event = torch.randn(2, 16, generator=noise)
    changes = []
    usual, cells, seen = UsualSlices(1, torch.tensor(0.1)), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)
    for frame in range(40):
        shown = event if 20 <= frame < 30 else before
        slices = (shown + 0.3 * torch.randn(16, generator=noise))[None, None]
        changes.append(usual.add(slices, cells, seen).item())
    assert min(changes[20:30]) > 0.1
    assert max(changes[10:20] + changes[30:]) < 0.05


def test_what_a_cell_shows_first_is_usual():
    usual, cells, seen = UsualSlices(1, torch.tensor(0.1)), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)
    event, after = torch.eye(2)[:, None, None]
    changes = [usual.add(event if frame < 5 else after, cells, seen).item() for frame in range(60)]
    assert changes[:5] == [0] * 5
    assert min(changes[5:9]) > 0.2
    assert changes[35:] == [0] * 25


def test_lasting_change_becomes_usual():
    usual, cells, seen = UsualSlices(1, torch.tensor(0.1)), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)
    first, then = torch.eye(2)[:, None, None]
    usual.add(first, cells, seen)
    changes = [usual.add(then, cells, seen).item() for _ in range(60)]
    assert changes[0] > 0.4
    assert changes[-1] == 0


def test_usual_distance_is_measured_on_frames_of_the_same_cells():
    head = new_policy(UNTRIMMED, scorer="memory").location_head
    head.fit(torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 2))
    assert head.usual_distance.item() == pytest.approx((2 / 4 + 5**0.5 / 3) / 2)


def test_cells_that_were_never_seen_are_as_old_as_the_episode():
    policy = wild_policy(**REMEMBERING)
    views = play(policy, PlaySettings(model=MODELS["reinforce"]), first_glance="none").views
    never = views.seen.cumsum(1) == 0
    frames = torch.arange(1.0, 4.0)[:, None].expand(6, 3, 9)
    assert never.any(2).all()
    assert torch.equal(views.age[never], frames[never])
    assert (views.content[never] == 0).all()


def test_age_and_change_raise_the_logits():
    head = new_policy(UNTRIMMED, scorer="memory").location_head
    zeros, age, change = torch.zeros(1, 1, 9), torch.arange(9.0)[None, None], torch.linspace(0, 1, 9)[None, None]
    before = Views(torch.zeros(1, 1, 9, 4), zeros, zeros, zeros, zeros)
    with torch.no_grad():
        for views, expected in (
            (before._replace(age=age), 3 * torch.log(1 + age)),
            (before._replace(change=change), 27 * change),
        ):
            moved = head(torch.zeros(1, 1, 6), views, None) - head(torch.zeros(1, 1, 6), before, None)
            torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize(
    ("shape", "weights"),
    [({}, (0.3, 2.7)), ({"first_set_size": 2}, (0, 0))],
)
def test_sets_start_without_weights_of_age_and_change(shape, weights):
    head = new_policy(dataclasses.replace(UNTRIMMED, **shape), scorer="memory").location_head
    assert (head.age_weight.item(), head.change_weight.item()) == pytest.approx(weights)


def test_memory_scores_each_cell_by_itself():
    head = new_policy(scorer="memory").location_head
    views = Views(torch.zeros(1, 1, 9, 4), *(torch.zeros(1, 1, 9) for _ in range(4)))
    views.content[0, 0, 2] = torch.tensor([1.0, 0.0, -1.0, 2.0])
    views.seen[0, 0, 2] = 1.0
    with torch.no_grad():
        head.seen.weight.copy_(torch.tensor([[0.5, 0.0]] * 4))  # for a cell ever seen
        head.seen.bias.fill_(0.1)
        head.state.weight.fill_(0.2)
        head.score.weight.fill_(1.0)
        logits = head(torch.full((1, 1, 6), 0.5), views, None)[0, 0]
    unseen = 4 * np.tanh(0.1 + 6 * 0.1)
    seen = sum(np.tanh(value + 0.5 + 0.1 + 0.6) for value in (1, 0, -1, 2))
    assert logits.tolist() == pytest.approx([unseen, unseen, seen] + 6 * [unseen])


@torch.no_grad()
def attention_by_hand(policy, looks, hidden):
    """Return the softmax of u . tanh(what x + seen + Wd h) + w change over the looks of one frame and nothing."""
    head = policy.location_head
    inner = head.what(looks.content) + head.seen(torch.ones(2)) + head.state(hidden)[:, None]
    scores = head.score(torch.tanh(inner))[..., 0]
    scores = scores + 10 * head.change_weight * looks.change
    return torch.cat([scores, (10 * head.nothing).expand(len(scores), 1)], -1).softmax(-1)[:, :-1]


def test_attended_weights_are_the_softmax_of_the_scores_of_the_slices():
    policy = wild_policy(shape=UNTRIMMED, **REMEMBERING, encoder="sum")
    with torch.no_grad():
        policy.location_head.nothing.fill_(0.05)
    rollout, state = play(policy), policy.memory.initial_state(6)
    for frame in range(4):
        looks = rollout.first if frame == 0 else Looks(*(part[:, frame - 1] for part in rollout.rest))
        torch.testing.assert_close(looks.weights, attention_by_hand(policy, looks, state.output))
        expected = (looks.weights[..., None] * looks.content).sum(-2)
        torch.testing.assert_close(policy.encoder(looks), expected)
        with torch.no_grad():
            state = policy.step(state, looks, None, None)[2]
    assert rollout.first.weights.std() > 1e-3
    torch.testing.assert_close(rollout.attention[:, 0], rollout.first.weights)


def test_attended_weights_leave_out_unseen_slices():
    head = wild_policy(shape=UNTRIMMED, **REMEMBERING).location_head
    shown, hidden = head.project(torch.randn(2, 3, 4)), torch.randn(2, 6)
    change = torch.tensor([[0.2, 0.0, 0.7], [0.0, 0.0, 0.0]])
    weights = head.attention(shown, torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]), change, hidden, None)
    alone = head.attention(shown[:1, [0, 2]], torch.ones(1, 2), change[:1, [0, 2]], hidden[:1], None)
    torch.testing.assert_close(weights[0, [0, 2]], alone[0])
    assert weights[0, 1] == 0
    assert weights[1].tolist() == [0, 0, 0]
    weights.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in head.parameters())


@torch.no_grad()
def test_slices_count_little_while_no_cell_changes():
    head = new_policy(UNTRIMMED, scorer="memory").location_head
    seen = torch.full((1, 3), 1 / 3)
    calm, event = (head.weigh(27 * torch.tensor([[change, 0.0, 0.0]]), seen) for change in (0.0, 0.3))
    assert calm.sum() < 0.2
    assert event[0, 0] > 0.9
    assert head.weigh(torch.tensor([[0.0, 200.0]]), torch.tensor([[1.0, 0.0]])).tolist() == [[0, 0]]


def test_class_logits_train_the_scores_that_weigh_slices():
    policy = wild_policy(shape=UNTRIMMED, **REMEMBERING)
    rollout = play(policy)
    policy(rollout.first, rollout.rest, rollout.views, None)[0].square().sum().backward()
    taught = {name for name, parameter in policy.location_head.named_parameters() if parameter.grad is not None}
    of_content = {"what.weight", "seen.weight", "seen.bias", "state.weight", "score.weight"}
    assert taught == of_content | {"change_weight", "nothing"}
    assert all(policy.location_head.get_parameter(name).grad.abs().max() > 0 for name in taught)


@pytest.mark.parametrize("network", [{}, REMEMBERING, {"encoder": "sum"}], ids=["grid", "memory", "sum"])
@pytest.mark.parametrize("model", ["reinforce", "random"])
def test_an_agent_without_a_first_glance_sees_nothing_of_the_first_frame(network, model):
    policy, settings = wild_policy(**network), PlaySettings(model=MODELS[model])
    with torch.no_grad():
        rollout = play(policy, settings, first_glance="none")
        class_logits, cell_logits, _ = policy(rollout.first, rollout.rest, rollout.views, None)
    # All clips look alike before the first look, and differ after it.
    assert rollout.class_logits[:, 0].std(0).max() < 1e-6
    assert rollout.class_logits[:, 1].std(0).min() > 1e-3
    assert rollout.attention[:, 0].max() == 0
    torch.testing.assert_close(class_logits, rollout.class_logits, rtol=1e-4, atol=1e-4)
    if model == "reinforce":
        assert rollout.views.seen[:, 0].max() == 0
        assert cell_logits[:, 0].std(0).max() < 1e-6


def test_location_logits_train_the_projection_in_every_frame():
    policy = wild_policy(**REMEMBERING)
    rollout = play(policy)
    for frame in range(3):
        policy.zero_grad()
        policy(rollout.first, rollout.rest, rollout.views, None)[1][:, frame].square().sum().backward()
        assert policy.location_head.what.weight.grad.abs().max() > 0


# ---- scale of the input


def test_channels_are_standardised_over_the_slices_given():
    policy = new_policy(standardise=True)
    slices = torch.randn(500, 4) * torch.tensor([1.0, 5.0, 0.1, 0.0]) + torch.tensor([3.0, -2.0, 0.0, 7.0])
    policy.fit(slices, slices)
    scaled = policy.scale(slices)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(4), atol=1e-3, rtol=0.0)
    torch.testing.assert_close(scaled.std(0)[:3], torch.ones(3), atol=1e-4, rtol=0.0)
    assert scaled[:, 3].abs().max() < 1  # a constant channel is not blown up
    assert (policy.scale(torch.zeros(2, 3, 4)) == 0).all()  # an unseen slice
    other = new_policy(standardise=True)
    other.load_state_dict(policy.state_dict())
    assert torch.equal(other.scale(slices), scaled)


def test_play_without_standardising_is_play_of_standardised_slices():
    policy = wild_policy(**REMEMBERING)
    plain = new_policy(**REMEMBERING | {"standardise": False})
    source = marked_source(6)
    scaled = policy.scale(torch.from_numpy(source.features)).numpy()
    plain.load_state_dict({name: value for name, value in policy.state_dict().items() if not name.startswith("scale")})
    ours, theirs = play(policy), play(plain, source=dataclasses.replace(source, features=scaled))
    torch.testing.assert_close(ours.class_logits, theirs.class_logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.cells, theirs.cells)


# ---- principal components


def test_projection_spans_the_largest_components():
    rng = torch.Generator().manual_seed(6)
    basis, _ = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64))
    scales = torch.tensor([3.0, 0.01, 1.0, 0.02], dtype=torch.float64)
    slices = (torch.randn(3000, 4, generator=rng, dtype=torch.float64) * scales) @ basis.T + 5.0
    head = new_policy().location_head
    head.fit(slices, slices)
    fitted = head.components.double()
    # Largest first: the two columns are the directions of deviations 3 and 1, up to sign and a common scale.
    cosines = (fitted / fitted.norm(dim=0)).T @ basis[:, [0, 2]]
    torch.testing.assert_close(cosines.abs(), torch.eye(2, dtype=torch.float64), atol=0.02, rtol=0.0)
    assert head.project(slices.float()).std(0)[0] > head.project(slices.float()).std(0)[1]
    projected = (slices - slices.mean(0)).float() @ head.components
    assert projected.std().item() == pytest.approx(1.0, abs=1e-4)


def test_narrow_slices_are_not_projected():
    head = new_policy(projection_size=32).location_head
    head.fit(*torch.randn(2, 50, 4))
    cubes = torch.randn(2, 9, 4)
    assert (head.project(cubes) == cubes).all()


def test_components_are_saved_with_the_weights():
    policy = wild_policy()
    other = new_policy()
    other.load_state_dict(policy.state_dict())
    assert (other.location_head.components == policy.location_head.components).all()


# ---- gradients


def test_location_logits_reach_the_lstm():
    policy = wild_policy()
    rollout = play(policy)
    _, cell_logits, _ = policy(rollout.first, rollout.rest, rollout.views, None)
    cell_logits.square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in policy.location_head.parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in policy.memory.lstm.parameters())


def test_class_logits_reach_all_parts_but_the_location_head():
    policy = wild_policy()
    rollout = play(policy)
    policy(rollout.first, rollout.rest, rollout.views, None)[0].square().sum().backward()
    for name, parameter in policy.named_parameters():
        assert (parameter.grad is None) is name.startswith("location_head.")


def test_dropout_applies_to_the_state_next_to_the_skip():
    policy = wild_policy(**DROPPING, skip=True)
    head, masks = policy.class_head, masks_for(policy)
    hidden, inputs = torch.randn(2, 6, 4, 6), torch.randn(6, 4, policy.encoder.width)
    all_dropped = dataclasses.replace(masks, state=torch.zeros_like(masks.state))
    assert torch.equal(*(head(state, inputs, all_dropped) for state in hidden))
    assert not torch.equal(*(head(state, inputs, masks) for state in hidden))
    assert not torch.equal(head(hidden[0], inputs, masks), head(hidden[0], 2 * inputs, masks))


@torch.no_grad()
def test_dropout_applies_to_the_hidden_units_of_the_scorer():
    policy = wild_policy(**DROPPING | {"scorer_dropout": 0.5})
    torch.nn.init.zeros_(policy.location_head.repulsion)  # it needs no hidden units
    masks = masks_for(policy)
    rollout = play(policy, masks=masks)
    all_dropped = dataclasses.replace(masks, scorer=torch.zeros_like(masks.scorer))
    logits = [policy(rollout.first, rollout.rest, rollout.views, one)[1] for one in (masks, all_dropped)]
    assert logits[0].any()
    assert not logits[1].any()


# ---- cells drawn in sequence

SEQUENTIAL = DROPPING | {"glimpse_order": "sequential"}
QUERY = "location_head.query.weight"


def logits_of(policy, rollout, masks=None):
    with torch.no_grad():
        return policy(rollout.first, rollout.rest, rollout.views, masks)[1]


@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
@pytest.mark.parametrize("mirror", [False, True])
def test_greedy_cells_are_the_likeliest_by_the_logits_of_their_own_draw(mirror, in_view):
    policy = wild_policy(**SEQUENTIAL)
    with torch.no_grad():
        policy.location_head.query.weight.mul_(5)
    masks = masks_for(policy)
    rollout = play(policy, PlaySettings(greedy=True, mirror=mirror, in_view=in_view), masks=masks)
    logits = logits_of(policy, rollout, masks)
    assert logits.shape == (6, 3, 2, 9)
    assert (logits[:, :, 0].argmax(2) == rollout.cells[..., 0]).all()
    left = logits[:, :, 1].scatter(2, rollout.cells[..., :1], -torch.inf)
    assert (left.argmax(2) == rollout.cells[..., 1]).all()
    assert (logits[:, :, 0].topk(2).indices != rollout.cells).any()  # a joint draw would have chosen other cells


@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
def test_sequential_logits_of_play_equal_those_of_the_update(in_view):
    policy = wild_policy(**SEQUENTIAL)
    masks, seen, head = masks_for(policy), [], policy.location_head
    score = head._score
    head._score = lambda *parts: seen.append(score(*parts)) or seen[-1]
    rollout = play(policy, PlaySettings(in_view=in_view, mirror=True), masks=masks)
    del head._score
    acted = torch.cat(seen, 1).reshape(6, 4, 3, 9)[:, :3]  # of the step, and of each of two draws
    assert torch.equal(acted[:, :, 0], acted[:, :, 1])
    torch.testing.assert_close(logits_of(policy, rollout, masks), acted[:, :, 1:], rtol=1e-4, atol=1e-5)


def test_sequences_are_drawn_with_probabilities_that_sum_to_one():
    policy = wild_policy(**SEQUENTIAL)
    head = policy.location_head
    rollout = play(policy, PlaySettings(in_view="cube"))
    orders = torch.tensor(list(permutations(range(9), 3)))  # (504, 3)
    hidden = torch.zeros(1, 1, 6)
    view = Views(*(part[:1, 1] for part in rollout.views))
    views = Views(*(part[:, None].expand(504, 1, *part.shape[1:]) for part in view))
    with torch.no_grad():
        logits = head.sequence_logits(hidden.expand(504, -1, -1), views, orders[:, None], None)
        log_probs = cells_log_prob(logits, orders[:, None])[:, 0]
        count, noise = 40_000, Noise.seeded(1)
        many = Views(*(part.expand(count, *part.shape[1:]) for part in view))
        drawn = head.draw_in_sequence(
            hidden[0].expand(count, -1), many, None, glimpses=3, draw=lambda part: draw_cells(part, 1, noise)
        )
    probabilities = log_probs.double().exp()
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-5)
    index = torch.tensor([81, 9, 1])
    shares = (drawn @ index).bincount(minlength=729)[orders @ index].double() / count
    assert ((shares - probabilities).abs() <= 4.5 * (probabilities * (1 - probabilities) / count).sqrt() + 1e-4).all()


def test_zero_query_draws_as_the_joint_order_does():
    policy = wild_policy(**SEQUENTIAL)
    with torch.no_grad():
        policy.location_head.query.weight.zero_()
    rollout = play(policy)
    logits = logits_of(policy, rollout)
    joint = new_policy(**DROPPING)
    joint.load_state_dict({name: weight for name, weight in policy.state_dict().items() if name != QUERY})
    expected = logits_of(joint, rollout)
    assert (logits == expected[:, :, None]).all()
    assert torch.equal(cells_log_prob(logits, rollout.cells), cells_log_prob(expected, rollout.cells))


def test_sequential_policy_starts_as_a_joint_one():
    fresh = []
    for settings in (DROPPING, SEQUENTIAL):
        torch.manual_seed(1)
        fresh.append(new_policy(**settings).state_dict())
    assert set(fresh[1]) - set(fresh[0]) == {QUERY}
    assert all(torch.equal(fresh[1][name], weight) for name, weight in fresh[0].items())
    assert not fresh[1][QUERY].any()


def test_query_moves_by_visible_slices_of_the_cells_drawn_before():
    policy = wild_policy(**SEQUENTIAL)
    head = policy.location_head
    rollout = play(policy)
    logits = logits_of(policy, rollout)
    content = rollout.views.content.clone()
    content[:, 1].scatter_(1, rollout.cells[:, 1, 1:, None].expand(-1, -1, 2), 0.0)  # at the last cell drawn
    blind = rollout.views._replace(content=content)
    hidden = torch.zeros(6, 3, 6)
    with torch.no_grad():
        last, first = (
            head._moves(views, rollout.cells)[:, 1] - head._moves(rollout.views, rollout.cells)[:, 1]
            for views in (blind, rollout.views._replace(content=torch.zeros_like(content)))
        )
        silent = head.sequence_logits(hidden, rollout.views._replace(content=0 * content), rollout.cells, None)
    assert not last[:, 0].any()
    assert (first[:, 0] != 0).any(1).sum() == rollout.views.seen[:, 1].gather(1, rollout.cells[:, 1, :1]).sum()
    assert torch.equal(silent[:, :, 0], silent[:, :, 1])  # slices that are not seen move nothing
    assert (logits[:, :, 0] != logits[:, :, 1]).any()


def test_gradient_of_a_sequence_reaches_the_query():
    policy = wild_policy(**SEQUENTIAL)
    with torch.no_grad():
        policy.location_head.query.weight.zero_()  # as at the start
    rollout = play(policy)
    _, logits, _ = policy(rollout.first, rollout.rest, rollout.views, None)
    cells_log_prob(logits, rollout.cells).sum().backward()
    assert policy.location_head.query.weight.grad.abs().max() > 1e-3
