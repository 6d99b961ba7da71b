"""Rollouts: their record agrees with the actions and observations of the environment."""

import dataclasses

import numpy as np
import pytest
import torch
from agent_toys import Watched, marked_source, tiny_config
from glimpse_agents.learning.episodes import InputShape
from glimpse_agents.learning.models import MODELS, Situation
from glimpse_agents.learning.policy import GlimpsePolicy
from glimpse_agents.parallel.noise import Noise
from glimpse_agents.playing.envs import make_envs, make_policy
from glimpse_agents.playing.players import PlaySettings, actor_cells
from glimpse_agents.playing.rollout import collect_rollout

from glimpse_env import VideoGlimpseVectorEnv

FLIP = torch.tensor([2, 1, 0, 5, 4, 3, 8, 7, 6])


def make_toy_envs(source, episodes, **settings):
    return VideoGlimpseVectorEnv(
        episodes, source=source, autoreset_mode="Disabled", **({"glimpses": 2, "observation": "slices"} | settings)
    )


def make_toy_policy(source, *, outputs=3, frames=4, **changes):
    config = tiny_config(**changes).policy
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = InputShape(grid_size=3, depth=source.depth, outputs=outputs, frames=frames)
        return GlimpsePolicy(config, shape)


def by(model, **changes):
    """Return how episodes of a model are played."""
    return PlaySettings(model=MODELS[model], **changes)


def play(source, settings, *, clips, policy=None, seed=1, **arguments):
    """Return the rollout and the environments after it."""
    envs = make_toy_envs(source, len(clips), **arguments)
    policy = policy or make_toy_policy(source)
    return collect_rollout(envs, policy, np.array(clips), settings, noise=Noise.seeded(seed)), envs


def staring_policy(source, cell):
    """Return a policy whose likeliest cell is always `cell`."""
    policy = make_toy_policy(source)
    with torch.no_grad():
        policy.location_head.place[cell] = 5.0
        policy.location_head.score.weight.fill_(1.0)
        policy.location_head.visible.weight.zero_()
    return policy


def cells_in(rollout, clips):
    """Return the (N, 3, m) cells of the source that were seen, by the toy's slices 1 + 72 i + 18 n + 2 k."""
    values = rollout.rest.content[..., 0]
    return ((values - 1 - 72 * clips[:, None, None] - 18 * torch.arange(1, 4)[:, None]) / 2).long()


# ---- actions and records


@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
@pytest.mark.parametrize("model", ["reinforce", "random", "centre"])
def test_the_slices_in_the_record_are_those_of_the_chosen_cells(toy, model, in_view):
    clips = torch.tensor([0, 3, 1, 4])
    rollout, envs = play(toy, by(model, in_view=in_view), clips=clips.tolist())
    assert (cells_in(rollout, clips) == rollout.cells).all()
    assert (rollout.rest.cells == rollout.cells).all()
    assert (torch.from_numpy(envs.engine.cells) == rollout.cells[:, -1]).all()
    assert rollout.first.content.flatten(1).tolist() == toy.features[clips, 0].reshape(4, -1).tolist()
    assert (rollout.clips == clips.numpy()).all()


def test_a_mirrored_episode_sends_mirrored_cells(toy):
    clips = torch.arange(40) % 5
    rollout, envs = play(toy, by("random", mirror=True), clips=clips.tolist())
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


def test_views_hold_visible_content_seen_cells_and_visits(toy):
    rollout, _ = play(toy, PlaySettings(), clips=[0, 1, 2])
    chosen = torch.nn.functional.one_hot(rollout.cells, 9).sum(2).float()  # (N, T - 1, K*K)
    assert (rollout.views.seen[:, 0] == 1).all()  # the first glance shows everything
    assert (rollout.views.seen[:, 1:] == chosen[:, :-1]).all()
    assert (rollout.views.visits[:, 0] == 0).all()  # and is no look
    assert (rollout.views.visits[:, 1:] == chosen[:, :-1].cumsum(1)).all()
    cubes = torch.from_numpy(toy.features[:3, :3]).flatten(2, 3)
    assert (rollout.views.content == cubes * rollout.views.seen[..., None]).all()


def test_the_outcome_comes_from_the_environments(toy):
    rollout, envs = play(toy, by("random", sample_classes=True), clips=[0, 1, 2, 3], eta=0.25)
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
    settings = PlaySettings(sample_classes=True, mirror=True)
    first, second, other = (play(toy, settings, clips=[0, 1, 2], seed=seed)[0] for seed in (1, 1, 2))
    for name in ("cells", "predictions", "class_logits", "rewards"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert not torch.equal(first.cells, other.cells)


def test_the_environments_seed_places_the_windows(uneven):
    policy, clips = make_toy_policy(uneven, outputs=2), np.zeros(30, np.int64)
    starts = []
    for seed in (5, 5, 6):
        envs = make_toy_envs(uneven, 30, frames=4, jitter=True)
        collect_rollout(envs, policy, clips, PlaySettings(), noise=Noise.seeded(1), seed=seed)
        starts.append(envs.engine.window[:, 0].tolist())
    assert starts[0] == starts[1] != starts[2]


# ---- models


def test_a_greedy_policy_takes_the_likeliest_cells(toy):
    policy = staring_policy(toy, 7)
    rollout, _ = play(toy, PlaySettings(greedy=True), clips=[0, 1], policy=policy)
    assert (rollout.cells[..., 0] == 7).all()


def test_a_share_of_choices_is_random_even_if_greedy(toy):
    settings = PlaySettings(greedy=True, random_share=0.5)
    rollout, envs = play(toy, settings, clips=[0] * 80, policy=staring_policy(toy, 7))
    assert (rollout.cells[~rollout.explored][..., 0] == 7).all()
    assert 0.35 < rollout.explored.float().mean() < 0.65  # 240 choices: four standard deviations are 0.13
    counts = rollout.cells[rollout.explored].flatten().bincount(minlength=9)
    assert counts.min() > 3
    assert (torch.from_numpy(envs.engine.cells) == rollout.cells[:, -1]).all()
    assert (cells_in(rollout, torch.zeros(80).long()) == rollout.cells).all()


def test_the_centre_looks_at_the_centre(toy):
    rollout, _ = play(toy, by("centre"), clips=[0, 1])
    assert (rollout.cells == torch.tensor([4, 1])).all()


@pytest.mark.parametrize("in_view", ["glimpsed", "cube"])
def test_the_norm_looks_at_the_largest_of_the_cells_seen_least(toy, in_view):
    rollout, _ = play(toy, by("norm", in_view=in_view), clips=[0, 1])
    assert rollout.cells.tolist() == [[[8, 7], [6, 5], [4, 3]]] * 2  # the toy's slices grow with the cell


def test_the_norm_returns_to_cells_that_were_large_when_last_seen():
    norms, visits = torch.tensor([[9.0, 2.0, 7.0, 8.0]]), torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    rule = MODELS["norm"].rule
    assert rule(Situation(2, 3, None, visits, norms), Noise.seeded(1)).tolist() == [[0, 3, 2]]
    visits[0, 0] = 2
    assert rule(Situation(2, 3, None, visits, norms), Noise.seeded(1)).tolist() == [[3, 2, 1]]


@pytest.mark.parametrize("mirror", [False, True])
def test_the_oracle_looks_at_the_actor(mirror):
    source = marked_source(20)
    rollout, _ = play(source, by("oracle", mirror=mirror), clips=range(20))
    assert (rollout.hits().sum(2) == 1).all()  # the actor has one cell, and there are two looks
    assert (rollout.actors[:, 1:].gather(2, rollout.cells[..., :1])).all()  # and the first one is on it
    assert (rollout.rest.content[:, :, 0, 0] >= 1).all()  # the mark is in the slice itself


def test_a_source_is_asked_for_the_actor_once_for_each_clip():
    @dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
    class Asked(type(marked_source(1))):
        asked: list = dataclasses.field(default_factory=list)

        def actor(self, clip):
            self.asked.append(clip)
            return super().actor(clip)

    source = marked_source(4, kind=Asked)
    envs = make_envs(tiny_config(), source, 6, train=True)
    envs.reset(options={"clip": np.array([3, 3, 3, 1, 1, 1])})
    actors = actor_cells(envs)
    assert source.asked == [3, 1]
    np.testing.assert_array_equal(actors[:, 0].numpy(), source.actors[[3, 3, 3, 1, 1, 1], 0].reshape(6, 9))


def test_the_oracle_follows_an_actor_that_moves(toy):
    actors = np.zeros((5, 4, 9), np.bool_)
    path = [8, 3, 0, 5]
    actors[:, np.arange(4), path] = True
    source = dataclasses.replace(toy, actors=actors.reshape(5, 4, 3, 3))
    rollout, _ = play(source, by("oracle"), clips=[0, 1], glimpses=1)
    assert rollout.cells[..., 0].tolist() == [path[1:]] * 2


def test_rollouts_of_one_clip_read_its_cubes_once(toy):
    source = Watched(**{name: getattr(toy, name) for name in ("features", "labels", "class_names")})
    clips = np.array([3, 1, 3, 3, 0, 1])
    for in_view, cubes in (("glimpsed", 1), ("cube", 4)):
        source.count.clear()
        rollout, _ = play(source, PlaySettings(in_view=in_view), clips=clips)
        whole = torch.from_numpy(toy.features[clips, :3]).flatten(2, 3)
        shown = whole if in_view == "cube" else whole * rollout.views.seen[..., None]
        assert (rollout.views.content == shown).all()
        # The environments read six first cubes and twelve slices in three frames, the rollout cubes of three clips.
        assert sorted(source.count) == [*[3] * cubes, 6, 12, 12, 12]


@pytest.mark.parametrize("model", ["random", "centre"])
def test_a_model_without_location_logits_reads_no_cubes_for_them(toy, model):
    source = Watched(**{name: getattr(toy, name) for name in ("features", "labels", "class_names")})
    rollout, _ = play(source, by(model, in_view="cube"), clips=[3, 1, 3])
    assert sorted(source.count) == [2, 3, 6, 6, 6]  # the first cubes for rollout and environments, and then slices
    assert rollout.views is None
    entropy = {"random": np.log(9), "centre": 0.0}[model]  # of the first cell drawn
    torch.testing.assert_close(rollout.entropy, torch.full((3, 3), entropy, dtype=torch.float32))


def test_different_windows_of_a_clip_are_read_separately(uneven):
    envs = make_toy_envs(uneven, 30, frames=4, jitter=True)
    policy, settings = make_toy_policy(uneven, outputs=2), PlaySettings(in_view="cube")
    rollout = collect_rollout(envs, policy, np.zeros(30, np.int64), settings, noise=Noise.seeded(1), seed=5)
    window = envs.engine.window
    assert len(set(window[:, 0].tolist())) > 2
    assert (rollout.views.content == torch.from_numpy(uneven.features[0][window[:, :3]]).flatten(2, 3)).all()


@pytest.mark.parametrize("observation", ["glimpsed", "cube"])
def test_environments_with_another_observation_are_refused(toy, observation):
    with pytest.raises(ValueError, match=f"rollouts need the observation 'slices' or 'blind', got '{observation}'"):
        play(toy, PlaySettings(), clips=[0], observation=observation)


def test_an_oracle_needs_to_know_the_actor(toy):
    with pytest.raises(ValueError, match="model 'oracle' needs a source that knows where the actor is"):
        play(toy, by("oracle"), clips=[0])


def test_hits_are_unknown_if_the_actor_is(toy):
    rollout, _ = play(toy, by("random"), clips=[0])
    assert rollout.hits() is None


def test_hits_count_looks_on_the_actor():
    rollout, _ = play(source := marked_source(6), by("random"), clips=range(6))
    place = torch.from_numpy(source.actors[:, 0].reshape(6, 9)).int().argmax(1)
    on_actor = torch.nn.functional.one_hot(place, 9).bool()[:, None]
    looked = torch.nn.functional.one_hot(rollout.cells, 9).sum(2).bool()
    assert (rollout.looked == looked).all()
    assert (rollout.hits() == (looked & on_actor)).all()
    assert rollout.hits().any()


def test_the_model_all_attends_to_every_cell(toy):
    rollout, _ = play(toy, by("all"), clips=[0, 3])
    cubes = torch.from_numpy(toy.features[[0, 3], 1:]).flatten(2, 3)
    assert (rollout.rest.content == cubes).all()
    torch.testing.assert_close(rollout.rest.weights, torch.full((2, 3, 9), 1 / 9))


def test_the_mean_is_all_cells_under_the_plain_sum():
    source = marked_source(6)
    rollouts = []
    for model in ("mean", "all"):
        config = tiny_config(encoder="sum", model=model)
        envs, policy = make_envs(config, source, 6, train=False), make_policy(config, source)
        rollouts.append(collect_rollout(envs, policy, np.arange(6), by(model), noise=Noise.seeded(1)))
    assert torch.equal(rollouts[0].class_logits, rollouts[1].class_logits)
    means = torch.from_numpy(source.features[:, 1:].mean((2, 3)))
    torch.testing.assert_close(rollouts[0].rest.content, means)


def test_the_mean_has_no_slice_embedding():
    source = marked_source(6)
    assert make_policy(tiny_config(model="mean"), source).encoder.is_sum
    assert not make_policy(tiny_config(model="all"), source).encoder.is_sum


def test_sampled_classes_follow_their_probabilities(toy):
    policy = make_toy_policy(toy, outputs=4)
    with torch.no_grad():
        policy.class_head.classes.weight.zero_()
        policy.class_head.classes.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]).log())
    settings = {"clips": [0] * 500, "policy": policy, "abstain": True}
    drawn, _ = play(toy, PlaySettings(sample_classes=True), **settings)
    shares = drawn.predictions.flatten().bincount(minlength=4) / 2000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.05, rtol=0.0)
    likeliest, _ = play(toy, PlaySettings(), **settings)
    assert (likeliest.predictions == 3).all()
