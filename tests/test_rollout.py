"""Playing episodes: what is kept of them is what the environment was sent and showed, seen from the policy's side."""

import dataclasses

import numpy as np
import pytest
import torch
from agent_toys import TINY_NETWORK, Watched, marked_source, tiny_config
from glimpse_agents.learning.policy import GlimpsePolicy, InputShape
from glimpse_agents.playing.envs import make_envs, make_policy
from glimpse_agents.playing.rollout import Manner, collect_rollout

from glimpse_env import VideoGlimpseVectorEnv

FLIP = torch.tensor([2, 1, 0, 5, 4, 3, 8, 7, 6])


def make_toy_envs(source, episodes, **settings):
    return VideoGlimpseVectorEnv(
        episodes, source=source, autoreset_mode="Disabled", **({"glimpses": 2, "observation": "slices"} | settings)
    )


def make_toy_policy(source, *, outputs=3, frames=4, **changes):
    config = dataclasses.replace(TINY_NETWORK, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = InputShape(grid_size=3, depth=source.depth, outputs=outputs, frames=frames)
        return GlimpsePolicy(config, shape)


def play(source, manner, *, clips, policy=None, seed=1, **settings):
    """Return the rollout and the environments as it left them."""
    envs = make_toy_envs(source, len(clips), **settings)
    policy = policy or make_toy_policy(source)
    generator = torch.Generator().manual_seed(seed)
    return collect_rollout(envs, policy, np.array(clips), manner, generator=generator), envs


def staring_policy(source, cell):
    """Return a policy whose likeliest cell is always the same one."""
    policy = make_toy_policy(source)
    with torch.no_grad():
        policy.place[cell] = 5.0
        policy.score.weight.fill_(1.0)
        policy.visible.weight.zero_()
    return policy


def cells_in(rollout, clips):
    """Read off the toy's slices (1 + 72 i + 18 n + 2 k) which cells of the source were seen: (N, 3, m)."""
    values = rollout.rest.content[..., 0]
    return ((values - 1 - 72 * clips[:, None, None] - 18 * torch.arange(1, 4)[:, None]) / 2).long()


# ---- what is sent and what is kept


@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
@pytest.mark.parametrize("looking", ["learned", "random", "centre"])
def test_the_slices_kept_are_those_of_the_cells_chosen(toy, looking, in_view):
    clips = torch.tensor([0, 3, 1, 4])
    rollout, envs = play(toy, Manner(looking=looking, in_view=in_view), clips=clips.tolist())
    assert (cells_in(rollout, clips) == rollout.cells).all()
    assert (rollout.rest.cells == rollout.cells).all()
    assert (torch.from_numpy(envs.engine.cells) == rollout.cells[:, -1]).all()
    assert rollout.first.content.flatten(1).tolist() == toy.features[clips, 0].reshape(4, -1).tolist()
    assert (rollout.clips == clips.numpy()).all()


def test_a_mirrored_episode_sends_mirrored_cells(toy):
    clips = torch.arange(40) % 5
    rollout, envs = play(toy, Manner(looking="random", mirror=True), clips=clips.tolist())
    seen = cells_in(rollout, clips)
    as_chosen, flipped = ((seen == cells).flatten(1).all(1) for cells in (rollout.cells, FLIP[rollout.cells]))
    assert (as_chosen | flipped).all()
    assert 10 < flipped.sum() < 30
    assert (torch.from_numpy(envs.engine.cells) == seen[:, -1]).all()
    # The first glance shows the policy the whole mirrored grid.
    first = rollout.first.content[..., 0]
    whole = torch.from_numpy(toy.features[clips, 0].reshape(40, 9, 2)[..., 0])
    mirrored = ~as_chosen
    assert (first == torch.where(mirrored[:, None], whole[:, FLIP], whole)).all()


def test_views_tell_what_is_visible_seen_and_how_often(toy):
    rollout, _ = play(toy, Manner(), clips=[0, 1, 2])
    chosen = torch.nn.functional.one_hot(rollout.cells, 9).sum(2).float()  # (N, T - 1, K*K)
    assert (rollout.views.seen[:, 0] == 1).all()  # the first glance shows everything
    assert (rollout.views.seen[:, 1:] == chosen[:, :-1]).all()
    assert (rollout.views.visits[:, 0] == 0).all()  # and is no look
    assert (rollout.views.visits[:, 1:] == chosen[:, :-1].cumsum(1)).all()
    cubes = torch.from_numpy(toy.features[:3, :3]).flatten(2, 3)
    assert (rollout.views.content == cubes * rollout.views.seen[..., None]).all()


def test_the_outcome_is_the_environments(toy):
    rollout, envs = play(toy, Manner(looking="random", sample_classes=True), clips=[0, 1, 2, 3], eta=0.25)
    outcome = envs.engine.outcome(np.arange(4))
    assert (rollout.predictions.numpy() == envs.engine.predictions).all()
    expected = envs.engine.rules.reward(outcome.true_positives, outcome.false_positives)
    np.testing.assert_allclose(rollout.rewards, expected)
    assert rollout.is_correct.tolist() == outcome.is_correct.tolist()
    assert rollout.true_positives.tolist() == outcome.true_positives.tolist()
    assert rollout.false_positives.tolist() == outcome.false_positives.tolist()
    assert rollout.glimpses.tolist() == [6] * 4
    labels = torch.tensor([2, 0, 1, 1])
    assert (rollout.frame_labels == torch.nn.functional.one_hot(labels, 3).bool()[:, None]).all()


def test_the_same_seed_plays_the_same_episodes(toy):
    manner = Manner(sample_classes=True, mirror=True)
    first, second, other = (play(toy, manner, clips=[0, 1, 2], seed=seed)[0] for seed in (1, 1, 2))
    for name in ("cells", "predictions", "class_logits", "rewards"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert not torch.equal(first.cells, other.cells)


def test_the_environments_seed_places_the_windows(uneven):
    policy, clips = make_toy_policy(uneven, outputs=2), np.zeros(30, np.int64)
    starts = []
    for seed in (5, 5, 6):
        envs = make_toy_envs(uneven, 30, frames=4, jitter=True)
        generator = torch.Generator().manual_seed(1)
        collect_rollout(envs, policy, clips, Manner(), generator=generator, seed=seed)
        starts.append(envs.engine.window[:, 0].tolist())
    assert starts[0] == starts[1] != starts[2]


# ---- ways of looking


def test_a_greedy_policy_takes_the_likeliest_cells(toy):
    policy = staring_policy(toy, 7)
    rollout, _ = play(toy, Manner(greedy=True), clips=[0, 1], policy=policy)
    assert (rollout.cells[..., 0] == 7).all()


def test_a_share_of_choices_is_random_whatever_the_manner(toy):
    manner = Manner(greedy=True, random_share=0.5)
    rollout, envs = play(toy, manner, clips=[0] * 80, policy=staring_policy(toy, 7))
    assert (rollout.cells[~rollout.explored][..., 0] == 7).all()
    assert 0.35 < rollout.explored.float().mean() < 0.65  # 240 choices: four standard deviations are 0.13
    counts = rollout.cells[rollout.explored].flatten().bincount(minlength=9)
    assert counts.min() > 3
    assert (torch.from_numpy(envs.engine.cells) == rollout.cells[:, -1]).all()
    assert (cells_in(rollout, torch.zeros(80).long()) == rollout.cells).all()


def test_the_centre_looks_at_the_centre(toy):
    rollout, _ = play(toy, Manner(looking="centre"), clips=[0, 1])
    assert (rollout.cells == torch.tensor([4, 1])).all()


@pytest.mark.parametrize("mirror", [False, True])
def test_the_oracle_looks_at_the_actor(mirror):
    source = marked_source(20)
    rollout, _ = play(source, Manner(looking="oracle", mirror=mirror), clips=range(20))
    assert (rollout.hits().sum(2) == 1).all()  # the actor has one cell, and there are two looks
    assert (rollout.actors[:, 1:].gather(2, rollout.cells[..., :1])).all()  # of which the first is at it
    assert (rollout.rest.content[:, :, 0, 0] >= 1).all()  # the mark is in the slice itself


def test_the_oracle_follows_an_actor_that_moves(toy):
    actors = np.zeros((5, 4, 9), np.bool_)
    path = [8, 3, 0, 5]
    actors[:, np.arange(4), path] = True
    source = dataclasses.replace(toy, actors=actors.reshape(5, 4, 3, 3))
    rollout, _ = play(source, Manner(looking="oracle"), clips=[0, 1], glimpses=1)
    assert rollout.cells[..., 0].tolist() == [path[1:]] * 2


def test_rollouts_of_a_clip_share_the_cubes_that_are_read(toy):
    source = Watched(**{name: getattr(toy, name) for name in ("features", "labels", "class_names")})
    clips = np.array([3, 1, 3, 3, 0, 1])
    for in_view, cubes in (("glimpsed", 1), ("cube", 4)):
        source.count.clear()
        rollout, _ = play(source, Manner(in_view=in_view), clips=clips)
        whole = torch.from_numpy(toy.features[clips, :3]).flatten(2, 3)
        shown = whole if in_view == "cube" else whole * rollout.views.seen[..., None]
        assert (rollout.views.content == shown).all()
        # The environments read six first cubes and twelve slices in three frames, the rollout cubes of three clips.
        assert sorted(source.count) == [*[3] * cubes, 6, 12, 12, 12]


@pytest.mark.parametrize("looking", ["random", "centre"])
def test_who_chooses_without_scores_neither_reads_nor_scores_for_them(toy, looking):
    source = Watched(**{name: getattr(toy, name) for name in ("features", "labels", "class_names")})
    rollout, _ = play(source, Manner(looking=looking, in_view="cube"), clips=[3, 1, 3])
    assert sorted(source.count) == [2, 3, 6, 6, 6]  # the first cubes for rollout and environments, and then slices
    assert rollout.views is None
    entropy = {"random": np.log(9), "centre": 0.0}[looking]  # of the first cell drawn
    torch.testing.assert_close(rollout.entropy, torch.full((3, 3), entropy, dtype=torch.float32))


def test_windows_of_a_clip_that_differ_are_read_apart(uneven):
    envs = make_toy_envs(uneven, 30, frames=4, jitter=True)
    policy, generator = make_toy_policy(uneven, outputs=2), torch.Generator().manual_seed(1)
    manner = Manner(in_view="cube")
    rollout = collect_rollout(envs, policy, np.zeros(30, np.int64), manner, generator=generator, seed=5)
    window = envs.engine.window
    assert len(set(window[:, 0].tolist())) > 2
    assert (rollout.views.content == torch.from_numpy(uneven.features[0][window[:, :3]]).flatten(2, 3)).all()


@pytest.mark.parametrize("observation", ["glimpsed", "cube"])
def test_environments_that_show_more_are_refused(toy, observation):
    with pytest.raises(ValueError, match=f"rollouts take the observation 'slices' or 'blind', got '{observation}'"):
        play(toy, Manner(), clips=[0], observation=observation)


def test_an_oracle_without_knowledge_is_refused(toy):
    with pytest.raises(ValueError, match="the oracle needs a source that knows where the actor is"):
        play(toy, Manner(looking="oracle"), clips=[0])


def test_hits_are_unknown_where_the_actor_is(toy):
    rollout, _ = play(toy, Manner(looking="random"), clips=[0])
    assert rollout.hits() is None


def test_hits_count_looks_on_the_actor():
    rollout, _ = play(source := marked_source(6), Manner(looking="random"), clips=range(6))
    place = torch.from_numpy(source.actors[:, 0].reshape(6, 9)).int().argmax(1)
    on_actor = torch.nn.functional.one_hot(place, 9).bool()[:, None]
    looked = torch.nn.functional.one_hot(rollout.cells, 9).sum(2).bool()
    assert (rollout.looked == looked).all()
    assert (rollout.hits() == (looked & on_actor)).all()
    assert rollout.hits().any()


def test_who_sees_everything_attends_to_every_cell(toy):
    rollout, _ = play(toy, Manner(looking="all"), clips=[0, 3])
    cubes = torch.from_numpy(toy.features[[0, 3], 1:]).flatten(2, 3)
    assert (rollout.rest.content == cubes).all()
    torch.testing.assert_close(rollout.rest.weights, torch.full((2, 3, 9), 1 / 9))


def test_the_mean_is_all_cells_under_the_plain_sum():
    source = marked_source(6)
    arms = []
    for looking in ("mean", "all"):
        config = tiny_config(policy=dataclasses.replace(TINY_NETWORK, encoder="sum"))
        policy = make_policy(config, source, looking)
        envs = make_envs(config, source, 6, train=False)
        generator = torch.Generator().manual_seed(1)
        arms.append(collect_rollout(envs, policy, np.arange(6), Manner(looking=looking), generator=generator))
    assert torch.equal(arms[0].class_logits, arms[1].class_logits)
    means = torch.from_numpy(source.features[:, 1:].mean((2, 3)))
    torch.testing.assert_close(arms[0].rest.content, means)


def test_the_mean_has_no_slice_embedding():
    source = marked_source(6)
    assert make_policy(tiny_config(), source, "mean").config.encoder == "sum"
    assert make_policy(tiny_config(), source, "all").config.encoder == "what_and_where"


def test_sampled_classes_are_not_the_likeliest_alone(toy):
    policy = make_toy_policy(toy, outputs=4)
    with torch.no_grad():
        policy.classes.weight.zero_()
        policy.classes.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]).log())
    settings = {"clips": [0] * 500, "policy": policy, "abstain": True}
    drawn, _ = play(toy, Manner(sample_classes=True), **settings)
    shares = drawn.predictions.flatten().bincount(minlength=4) / 2000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.05, rtol=0.0)
    likeliest, _ = play(toy, Manner(), **settings)
    assert (likeliest.predictions == 3).all()
