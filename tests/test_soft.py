"""Attention that is learned by back-propagation: what it sees, and what its gradient reaches."""

import dataclasses

import numpy as np
import pytest
import torch
from agent_toys import TINY_NETWORK, marked_source, marked_splits, tiny_config
from glimpse_agents.learning.losses import attention_penalty, class_loss
from glimpse_agents.learning.objective import Advantages, class_choice_loss, soft_losses
from glimpse_agents.playing import mirror, soft
from glimpse_agents.playing.envs import make_envs, make_policy
from glimpse_agents.playing.play import policy_of
from glimpse_agents.playing.rollout import Manner, collect_rollout
from glimpse_agents.playing.soft import play_softly
from glimpse_agents.reinforce import Arm

KINDS = ("soft", "soft_hidden", "soft_top", "gumbel")


def wild_policy(looking, source, **changes):
    """Return a network of an arm whose weights are large enough to prefer some cells."""
    config = tiny_config(policy=dataclasses.replace(TINY_NETWORK, **changes), abstain=False)
    policy, generator = make_policy(config, source, looking), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return policy, config


def play_arm(looking, source, *, policy=None, masks=None, way=play_softly, seed=2, clips=None, **manner):
    """Return an episode of each clip."""
    made, config = wild_policy(looking, source)
    clips = np.arange(source.num_clips) if clips is None else np.array(clips)
    envs = make_envs(config, source, len(clips), train=False, looking=looking)
    generator = torch.Generator().manual_seed(seed)
    chosen = Manner(looking=looking, **manner)
    return way(envs, policy or made, clips, chosen, generator=generator, masks=masks), envs


def flipped(source):
    """Return the source mirrored left to right."""
    return dataclasses.replace(source, features=source.features[:, :, :, ::-1].copy())


# ---- what is seen


@pytest.mark.parametrize("looking", KINDS)
def test_attention_sums_to_one_over_the_cells_it_may_have(looking):
    rollout, _ = play_arm(looking, marked_source(6))
    torch.testing.assert_close(rollout.attention.sum(2), torch.ones(6, 4))
    many = {"soft": 9, "soft_hidden": 9, "soft_top": 2, "gumbel": 2}[looking]
    assert (rollout.looked.sum(2) == many).all()
    assert rollout.entropy.shape == (6, 3)


def test_the_likeliest_cells_share_their_own_softmax():
    source = marked_source(6)
    (whole, _), (top, _) = (play_arm(looking, source, policy=wild_policy("soft", source)[0]) for looking in KINDS[:3:2])
    first, likeliest = whole.attention[:, 0], top.attention[:, 0]  # later frames differ in what was seen before
    expected = first * (likeliest > 0)
    torch.testing.assert_close(likeliest, expected / expected.sum(1, keepdim=True))
    assert (expected.sum(1) >= first.topk(2).values.sum(1) - 1e-6).all()


def test_without_scores_soft_attention_is_the_mean():
    source = marked_source(6)
    policy, _ = wild_policy("mean", source)
    with torch.no_grad():
        policy.score.weight.zero_()
        policy.repulsion.zero_()
    attended, _ = play_arm("soft", source, policy=policy)
    pooled, _ = play_arm("mean", source, policy=policy, way=collect_rollout)
    torch.testing.assert_close(attended.class_logits, pooled.class_logits)
    torch.testing.assert_close(attended.attention, torch.full((6, 4, 9), 1 / 9))


@pytest.mark.parametrize("looking", ["soft", "soft_hidden"])
def test_only_scores_of_content_follow_the_content(looking):
    source = marked_source(6)
    policy, _ = wild_policy(looking, source, start="zeros")
    policy.config = dataclasses.replace(policy.config, start="zeros")
    shuffled = dataclasses.replace(source, features=source.features[:, :, ::-1].copy())
    one, two = (play_arm(looking, clips, policy=policy)[0].attention[:, 0] for clips in (source, shuffled))
    assert torch.equal(one, two) is (looking == "soft_hidden")


def test_the_state_begins_from_the_mean_of_all_frames():
    source = marked_source(6)
    policy, _ = wild_policy("soft", source)
    last = source.features.copy()
    last[:, -1] *= 3
    before, after = (
        play_arm("soft", clips, policy=policy)[0].class_logits[:, 0]
        for clips in (source, dataclasses.replace(source, features=last))
    )
    assert not torch.allclose(before, after)
    mean = torch.from_numpy(source.features.mean((1, 2, 3)))
    state = policy.state_of_mean(policy.project(mean))
    assert [part.shape for part in state.layers[0]] == [(1, 6, 8), (1, 6, 8)]
    expected = torch.tanh(policy.begin(mean)).reshape(6, 1, 2, 8)
    torch.testing.assert_close(state.layers[0][1][0], expected[:, 0, 1])


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
@pytest.mark.parametrize("mirror", [False, True])
def test_gumbel_without_noise_plays_as_a_policy_that_chooses(monkeypatch, mirror, in_view, encoder):
    """What is trained through is what is played: the same logits, cells and classes as frame by frame."""
    monkeypatch.setattr(soft, "gumbel_noise", lambda shape, *_: torch.zeros(shape))
    source = marked_source(8)
    policy, config = wild_policy("gumbel", source, encoder=encoder)
    masks = policy.draw_masks(8, torch.Generator().manual_seed(4))
    envs = make_envs(config, source, 8, train=False)
    manner = Manner(looking="gumbel", in_view=in_view, greedy=True, mirror=mirror)
    one, two = (
        way(envs, policy, np.arange(8), manner, generator=torch.Generator().manual_seed(2), masks=masks)
        for way in (play_softly, collect_rollout)
    )
    torch.testing.assert_close(one.class_logits.detach(), two.class_logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(one.looked, two.looked)
    torch.testing.assert_close(one.entropy.detach(), two.entropy, rtol=1e-4, atol=1e-5)
    assert one.rewards.tolist() == two.rewards.tolist()


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
@pytest.mark.parametrize("looking", KINDS)
def test_a_mirrored_episode_is_that_of_a_mirrored_clip(monkeypatch, looking, encoder):
    source = marked_source(6)
    policy, _ = wild_policy(looking, source, encoder=encoder)
    there, envs = play_arm(looking, flipped(source), policy=policy)
    monkeypatch.setattr(mirror, "uniform", lambda shape, *_: torch.zeros(shape))
    here, mirrored = play_arm(looking, source, policy=policy, mirror=True)
    torch.testing.assert_close(here.class_logits, there.class_logits)
    torch.testing.assert_close(here.attention, there.attention)
    flip = np.arange(9).reshape(3, 3)[:, ::-1].ravel()
    assert (np.sort(flip[mirrored.engine.cells]) == np.sort(envs.engine.cells)).all()


def test_unseen_slices_have_no_part_in_gumbel_glimpses():
    source = marked_source(6)
    before, _ = play_arm("gumbel", source)
    changed = source.features.reshape(6, 4, 9, -1).copy()
    changed[:, 1:][~before.looked.numpy()] *= 5
    after, _ = play_arm("gumbel", dataclasses.replace(source, features=changed.reshape(source.features.shape)))
    assert torch.equal(before.looked, after.looked)
    assert torch.equal(before.class_logits, after.class_logits)


@pytest.mark.parametrize("looking", KINDS)
def test_the_outcome_is_the_environments(looking):
    rollout, envs = play_arm(looking, marked_source(6), mirror=True)
    outcome = envs.engine.outcome(np.arange(6))
    assert (envs.engine.predictions == rollout.predictions.numpy()).all()
    assert rollout.is_correct.tolist() == outcome.is_correct.tolist()
    assert rollout.true_positives.tolist() == outcome.true_positives.tolist()
    assert rollout.false_positives.tolist() == outcome.false_positives.tolist()
    expected = envs.engine.rules.reward(outcome.true_positives, outcome.false_positives)
    np.testing.assert_allclose(rollout.rewards, expected)


def test_a_share_of_gumbel_choices_is_random_and_without_a_say():
    source = marked_source(1)
    policy, _ = wild_policy("gumbel", source)
    settings = {"policy": policy, "clips": [0] * 300}
    plain, _ = play_arm("gumbel", source, **settings)
    mixed, _ = play_arm("gumbel", source, **settings, random_share=0.9)
    shares = [rollout.looked[:, 0].float().mean(0) for rollout in (plain, mixed)]
    assert shares[0].std() > 2 * shares[1].std()  # random looks are spread evenly
    torch.testing.assert_close(shares[1].sum(), torch.tensor(2.0))


# ---- what the gradient reaches


@pytest.mark.parametrize("looking", KINDS)
def test_the_class_loss_teaches_where_to_look(looking):
    source = marked_source(6)
    policy, config = wild_policy(looking, source)
    rollout, _ = play_arm(looking, source, policy=policy)
    soft_losses(rollout, Advantages.of(rollout, config), config, update=2).total.backward()
    reached = {name for name, parameter in policy.named_parameters() if parameter.grad is not None}
    assert {"score.weight", "place", "state.weight", "classes.weight"} <= reached
    assert policy.score.weight.grad.abs().max() > 1e-4


def test_the_gumbel_gradient_is_that_of_the_softmax():
    source = marked_source(6)
    viewer_logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(3), requires_grad=True)
    policy, config = wild_policy("gumbel", source)
    envs = make_envs(config, source, 6, train=False)
    envs.reset(options={"clip": np.arange(6)})
    viewer = soft._Viewer(envs, policy, Manner(looking="gumbel"), torch.Generator().manual_seed(1), None, soft.WHOLE)
    viewer.cell_logits.append(viewer_logits)
    weights = viewer._choice(1)
    assert ((weights == 0) | (weights == 0.5)).all()
    pull = torch.randn(6, 9, generator=torch.Generator().manual_seed(6))
    (gradient,) = torch.autograd.grad((weights * pull).sum(), viewer_logits)
    noise = soft.gumbel_noise(viewer_logits.shape, torch.Generator().manual_seed(1))
    (expected,) = torch.autograd.grad(((viewer_logits + noise).softmax(1) * pull).sum(), viewer_logits)
    torch.testing.assert_close(gradient, expected)


def test_the_loss_is_cross_entropy_and_coverage():
    source = marked_source(6)
    config = tiny_config(abstain=False, penalty=0.4)
    rollout, _ = play_arm("soft", source)
    losses = soft_losses(rollout, Advantages.of(rollout, config), config, update=2)
    expected = class_loss(rollout.class_logits, rollout.frame_labels) + 0.4 * attention_penalty(rollout.attention)
    torch.testing.assert_close(losses.total, expected)
    assert losses.policy.item() == 0


def test_drawn_classes_wait_for_the_end_of_the_warm_up():
    source = marked_source(6)
    config = tiny_config(abstain=False, class_gradient=True)
    rollout, _ = play_arm("soft", source, sample_classes=True, clips=[0, 0, 1, 1, 2, 2])
    advantages = Advantages.of(rollout, config)
    plain = class_loss(rollout.class_logits, rollout.frame_labels)
    drawn = class_choice_loss(rollout.class_logits, rollout.predictions, advantages.classes)
    assert drawn.abs() > 1e-3
    totals = [soft_losses(rollout, advantages, config, update=update).total for update in (1, 2)]
    torch.testing.assert_close(torch.stack(totals), torch.stack([plain, plain + drawn]))


def test_measuring_keeps_no_graph():
    source = marked_source(6)
    policy, config = wild_policy("soft", source)
    envs, generator = make_envs(config, source, 6, train=False), torch.Generator().manual_seed(2)
    rollout = policy_of("soft")(envs, policy, np.arange(6), Manner(looking="soft"), generator=generator)
    assert not rollout.class_logits.requires_grad
    assert not rollout.attention.requires_grad


# ---- learning


@pytest.mark.parametrize(
    ("looking", "least", "most"),
    [("soft", 0.95, 1.0), ("soft_top", 0.95, 1.0), ("gumbel", 0.9, 1.0), ("unlimited", 0.9, 1.0), ("random", 0, 0.85)],
)
def test_who_learns_where_to_look_says_what_it_sees(tmp_path, looking, least, most):
    network = dataclasses.replace(TINY_NETWORK, hidden_size=16, embedding_size=16, scorer_size=16)
    config = tiny_config(
        policy=network, updates=150, warmup_updates=40, clips=16, rollouts=4, validate_every=75, look_cost=0.02,
        abstain=False,
    )  # fmt: skip
    arm = Arm(config, looking, tmp_path, marked_splits(96, frames=6))
    arm.train()
    measured = arm.test()
    assert least <= measured.accuracy <= most
    if looking == "unlimited":
        assert 0.5 < measured.glimpses_per_frame < 6
