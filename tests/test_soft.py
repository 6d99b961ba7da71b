"""Attention learned by back-propagation: its observations, and the reach of its gradient."""

import dataclasses

import numpy as np
import pytest
import torch
from agent_toys import marked_source, marked_splits, tiny_config
from glimpse_agents.learning.credit import Advantages
from glimpse_agents.learning.losses import attention_penalty, choice_loss, class_loss, soft_losses
from glimpse_agents.learning.models import MODELS
from glimpse_agents.parallel.noise import Noise
from glimpse_agents.playing.envs import make_envs, make_policy
from glimpse_agents.playing.players import PlaySettings
from glimpse_agents.playing.rollout import collect_rollout, play
from glimpse_agents.playing.weighing import WeighingPlayer
from glimpse_agents.reinforce import train

KINDS = ("soft", "soft_hidden", "soft_top", "gumbel")


def wild_policy(model, source, **changes):
    """Return a model's network with weights that are large enough to prefer some cells, and its configuration."""
    config = tiny_config(model=model, abstain=False, **changes)
    policy, generator = make_policy(config, source), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return policy, config


def play_model(model, source, *, policy=None, masks=None, way=collect_rollout, seed=2, clips=None, **changes):
    """Return an episode of each clip, and the environments after them."""
    made, config = wild_policy(model, source)
    clips = np.arange(source.num_clips) if clips is None else np.array(clips)
    envs = make_envs(config, source, len(clips), train=False)
    settings = PlaySettings(model=MODELS[model], **changes)
    return way(envs, policy or made, clips, settings, noise=Noise.seeded(seed), masks=masks), envs


def flipped(source):
    """Return the source mirrored left to right."""
    return dataclasses.replace(source, features=source.features[:, :, :, ::-1].copy())


# ---- attention


@pytest.mark.parametrize("model", KINDS)
def test_attention_sums_to_one_over_the_cells_it_may_weigh(model):
    rollout, _ = play_model(model, marked_source(6))
    torch.testing.assert_close(rollout.attention.sum(2), torch.ones(6, 4))
    many = {"soft": 9, "soft_hidden": 9, "soft_top": 2, "gumbel": 2}[model]
    assert (rollout.looked.sum(2) == many).all()
    assert rollout.entropy.shape == (6, 3)


def test_the_likeliest_cells_share_their_own_softmax():
    source = marked_source(6)
    (whole, _), (top, _) = (play_model(model, source, policy=wild_policy("soft", source)[0]) for model in KINDS[:3:2])
    first, likeliest = whole.attention[:, 0], top.attention[:, 0]  # later frames differ in earlier looks
    expected = first * (likeliest > 0)
    torch.testing.assert_close(likeliest, expected / expected.sum(1, keepdim=True))
    assert (expected.sum(1) >= first.topk(2).values.sum(1) - 1e-6).all()


def test_without_scores_soft_attention_is_the_mean():
    source = marked_source(6)
    policy, _ = wild_policy("mean", source)
    with torch.no_grad():
        policy.location_head.score.weight.zero_()
        policy.location_head.repulsion.zero_()
    attended, _ = play_model("soft", source, policy=policy)
    pooled, _ = play_model("mean", source, policy=policy)
    torch.testing.assert_close(attended.class_logits, pooled.class_logits)
    torch.testing.assert_close(attended.attention, torch.full((6, 4, 9), 1 / 9))


@pytest.mark.parametrize("model", ["soft", "soft_hidden"])
def test_only_scores_of_content_follow_the_content(model):
    source = marked_source(6)
    policy, _ = wild_policy(model, source)
    policy.shape = dataclasses.replace(policy.shape, starts_from_mean=False)
    shuffled = dataclasses.replace(source, features=source.features[:, :, ::-1].copy())
    one, two = (play_model(model, clips, policy=policy)[0].attention[:, 0] for clips in (source, shuffled))
    assert torch.equal(one, two) is (model == "soft_hidden")


def test_the_state_begins_from_the_mean_of_all_frames():
    source = marked_source(6)
    policy, _ = wild_policy("soft", source)
    last = source.features.copy()
    last[:, -1] *= 3
    before, after = (
        play_model("soft", clips, policy=policy)[0].class_logits[:, 0]
        for clips in (source, dataclasses.replace(source, features=last))
    )
    assert not torch.allclose(before, after)
    mean = torch.from_numpy(source.features.mean((1, 2, 3)))
    state = policy.memory.state_of_mean(policy.location_head.project(mean))
    assert [part.shape for part in state.layers[0]] == [(1, 6, 8), (1, 6, 8)]
    expected = torch.tanh(policy.memory.begin(mean)).reshape(6, 1, 2, 8)
    torch.testing.assert_close(state.layers[0][1][0], expected[:, 0, 1])


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
@pytest.mark.parametrize("mirror", [False, True])
def test_gumbel_without_noise_plays_like_a_policy_that_chooses(monkeypatch, mirror, in_view, encoder):
    """Training and playing agree: the same logits, cells and classes as frame by frame."""
    monkeypatch.setattr(Noise, "gumbel", lambda self, shape: torch.zeros(shape))
    play_acting = torch.no_grad()(collect_rollout)
    source = marked_source(8)
    policy, config = wild_policy("gumbel", source, encoder=encoder)
    masks = policy.draw_masks(8, Noise.seeded(4))
    envs = make_envs(config, source, 8, train=False)
    settings = PlaySettings(model=MODELS["gumbel"], in_view=in_view, greedy=True, mirror=mirror)
    one, two = (
        way(envs, policy, np.arange(8), settings, noise=Noise.seeded(2), masks=masks)
        for way in (collect_rollout, play_acting)
    )
    torch.testing.assert_close(one.class_logits.detach(), two.class_logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(one.looked, two.looked)
    torch.testing.assert_close(one.entropy.detach(), two.entropy, rtol=1e-4, atol=1e-5)
    assert one.rewards.tolist() == two.rewards.tolist()


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
@pytest.mark.parametrize("model", KINDS)
def test_a_mirrored_episode_equals_that_of_a_mirrored_clip(monkeypatch, model, encoder):
    source = marked_source(6)
    policy, _ = wild_policy(model, source, encoder=encoder)
    there, envs = play_model(model, flipped(source), policy=policy)
    uniform = Noise.uniform  # the mirror's draws alone have one axis
    monkeypatch.setattr(Noise, "uniform", lambda self, shape: uniform(self, shape) if shape[1:] else torch.zeros(shape))
    here, mirrored = play_model(model, source, policy=policy, mirror=True)
    torch.testing.assert_close(here.class_logits, there.class_logits)
    torch.testing.assert_close(here.attention, there.attention)
    flip = np.arange(9).reshape(3, 3)[:, ::-1].ravel()
    assert (np.sort(flip[mirrored.engine.cells]) == np.sort(envs.engine.cells)).all()


def test_unseen_slices_have_no_part_in_gumbel_glimpses():
    source = marked_source(6)
    before, _ = play_model("gumbel", source)
    changed = source.features.reshape(6, 4, 9, -1).copy()
    changed[:, 1:][~before.looked.numpy()] *= 5
    after, _ = play_model("gumbel", dataclasses.replace(source, features=changed.reshape(source.features.shape)))
    assert torch.equal(before.looked, after.looked)
    assert torch.equal(before.class_logits, after.class_logits)


@pytest.mark.parametrize("model", KINDS)
def test_the_outcome_comes_from_the_environments(model):
    rollout, envs = play_model(model, marked_source(6), mirror=True)
    outcome = envs.engine.outcome(np.arange(6))
    assert (envs.engine.predictions == rollout.predictions.numpy()).all()
    assert rollout.is_correct.tolist() == outcome.is_correct.tolist()
    assert rollout.true_positives.tolist() == outcome.true_positives.tolist()
    assert rollout.false_positives.tolist() == outcome.false_positives.tolist()
    expected = envs.engine.rules.reward(outcome.true_positives, outcome.false_positives)
    np.testing.assert_allclose(rollout.rewards, expected)


def test_a_share_of_gumbel_choices_is_random():
    source = marked_source(1)
    policy, _ = wild_policy("gumbel", source)
    with torch.no_grad():
        policy.location_head.score.weight *= 4  # prefers some cells clearly
    settings = {"policy": policy, "clips": [0] * 300}
    plain, _ = play_model("gumbel", source, **settings)
    mixed, _ = play_model("gumbel", source, **settings, random_share=0.9)
    shares = [rollout.looked[:, 0].float().mean(0) for rollout in (plain, mixed)]
    assert shares[0].std() > 2 * shares[1].std()  # random looks are spread evenly
    torch.testing.assert_close(shares[1].sum(), torch.tensor(2.0))


# ---- gradients


@pytest.mark.parametrize("model", KINDS)
def test_the_class_loss_teaches_looking(model):
    source = marked_source(6)
    policy, config = wild_policy(model, source)
    rollout, _ = play_model(model, source, policy=policy)
    soft_losses(rollout, Advantages.of(rollout, config), config, update=2).total.backward()
    reached = {name for name, parameter in policy.named_parameters() if parameter.grad is not None}
    assert {
        "location_head.score.weight",
        "location_head.place",
        "location_head.state.weight",
        "class_head.classes.weight",
    } <= reached
    assert policy.location_head.score.weight.grad.abs().max() > 1e-4


def test_the_gumbel_gradient_is_that_of_the_softmax():
    source = marked_source(6)
    viewer_logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(3), requires_grad=True)
    policy, config = wild_policy("gumbel", source)
    envs = make_envs(config, source, 6, train=False)
    envs.reset(options={"clip": np.arange(6)})
    viewer = WeighingPlayer(envs, policy, PlaySettings(model=MODELS["gumbel"]), Noise.seeded(1), None)
    viewer.cell_logits.append(viewer_logits)
    weights = viewer._choice(1)
    assert ((weights == 0) | (weights == 0.5)).all()
    pull = torch.randn(6, 9, generator=torch.Generator().manual_seed(6))
    (gradient,) = torch.autograd.grad((weights * pull).sum(), viewer_logits)
    noise = Noise.seeded(1).gumbel(viewer_logits.shape)
    (expected,) = torch.autograd.grad(((viewer_logits + noise).softmax(1) * pull).sum(), viewer_logits)
    torch.testing.assert_close(gradient, expected)


def test_the_loss_is_cross_entropy_and_coverage():
    source = marked_source(6)
    config = tiny_config(abstain=False, penalty=0.4)
    rollout, _ = play_model("soft", source)
    losses = soft_losses(rollout, Advantages.of(rollout, config), config, update=2)
    expected = class_loss(rollout.class_logits, rollout.frame_labels) + 0.4 * attention_penalty(rollout.attention)
    torch.testing.assert_close(losses.total, expected)
    assert losses.policy.item() == 0


def test_sampled_classes_wait_for_the_end_of_the_warm_up():
    source = marked_source(6)
    config = tiny_config(abstain=False, class_gradient=True)
    rollout, _ = play_model("soft", source, sample_classes=True, clips=[0, 0, 1, 1, 2, 2])
    advantages = Advantages.of(rollout, config)
    plain = class_loss(rollout.class_logits, rollout.frame_labels)
    drawn = choice_loss(rollout.class_logits, rollout.predictions, advantages.classes)
    assert drawn.abs() > 1e-3
    totals = [soft_losses(rollout, advantages, config, update=update).total for update in (1, 2)]
    torch.testing.assert_close(torch.stack(totals), torch.stack([plain, plain + drawn]))


def test_measuring_keeps_no_graph():
    source = marked_source(6)
    policy, config = wild_policy("soft", source)
    envs = make_envs(config, source, 6, train=False)
    rollout = play(envs, policy, np.arange(6), PlaySettings(model=MODELS["soft"]), noise=Noise.seeded(2))
    assert not rollout.class_logits.requires_grad
    assert not rollout.attention.requires_grad


# ---- learning


@pytest.mark.parametrize(
    ("model", "least", "most"),
    [("soft", 0.95, 1.0), ("soft_top", 0.95, 1.0), ("gumbel", 0.9, 1.0), ("unlimited", 0.9, 1.0), ("random", 0, 0.85)],
)
def test_models_that_learn_where_to_look_solve_a_toy(tmp_path, model, least, most):
    config = tiny_config(
        model=model, hidden_size=16, embedding_size=16, scorer_size=16, updates=120, warmup_share=0.27, clips=16,
        rollouts=2, validate_every=60, look_cost=0.02, abstain=False, checkpoint_seconds=60.0,
    )  # fmt: skip
    measured = train(config, tmp_path, sources=marked_splits(96, frames=6)).measured
    assert least <= measured.accuracy <= most
    if model in ("soft", "soft_top"):  # equal weights, 1/9 on the actor, can name the classes too
        assert measured.attention_on_actor > 0.2
    if model == "unlimited":
        assert 0.5 < measured.glimpses_per_frame < 6
