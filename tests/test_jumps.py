"""Agents that jump over frames: their gradient against exact enumeration, their rollouts, and what they learn."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from agent_toys import marked_source, tiny_config
from clip_toys import UnevenSource
from glimpse_agents import reinforce
from glimpse_agents.learning.config import Config
from glimpse_agents.learning.credit import Advantages, class_returns, frame_returns, leave_one_out, run_returns
from glimpse_agents.learning.episodes import Rollout, Steps
from glimpse_agents.learning.glimpses import first_draw_entropy
from glimpse_agents.learning.losses import policy_gradient_loss
from glimpse_agents.learning.models import MODELS
from glimpse_agents.parallel.noise import Noise
from glimpse_agents.playing.envs import make_envs, make_policy
from glimpse_agents.playing.evaluation import evaluate_split
from glimpse_agents.playing.players import PlaySettings
from glimpse_agents.playing.rollout import collect_rollout, play_out
from glimpse_agents.runs.trainer import Trainer

from glimpse_env import ArraySource, Segment, VideoGlimpseVectorEnv

# ---- frames and steps


STEPS = Steps(torch.tensor([[0, 1, 3, 5], [0, 4, 5, 5]]), torch.zeros(2, 4, dtype=torch.int64))  # of five frames


def test_an_answer_stands_until_the_next_observed_frame():
    values = torch.tensor([[10, 11, 12, 13], [20, 21, 22, 23]])
    assert STEPS.standing(values, 5).tolist() == [[10, 11, 11, 12, 12], [20, 20, 20, 20, 21]]
    assert STEPS.observed(5).int().tolist() == [[1, 1, 0, 1, 0], [1, 0, 0, 0, 1]]
    assert STEPS.lasts(5).tolist() == [[0, 2, 2, 4, 4], [3, 3, 3, 3, 4]]


def test_a_class_that_stands_is_credited_with_the_run_after_it():
    # Runs 0, then 1 1, then 0 0 of the first episode, with the shares 1, 10 and 100; each is one step.
    shares = torch.tensor([[1.0, 0.0, 10.0, 0.0, 100.0], [0.0, 0.0, 0.0, 0.0, 7.0]])
    predictions = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    credit = run_returns(shares, predictions, STEPS)
    assert credit[0, [0, 1, 3]].tolist() == [1 + 10, 10 + 1 + 100, 100 + 10]  # own, the one before, the one after
    assert credit[1, [0, 4]].tolist() == [7.0, 7.0]


# ---- the gradient


class AllPlays:
    """All ways to play a clip of four frames with two cells, two classes and jumps of one and two frames.

    At each observed frame a class, a jump and a cell are drawn by logits that depend on the frame and the last cell.
    """

    FRAMES, JUMPS = 4, (1, 2)

    def __init__(self, matching):
        rng = torch.Generator().manual_seed(5)
        shape = (3, self.FRAMES, 2, 2)  # class, jump, cell; frame; last cell; choice
        self.logits = torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()
        plays = list(self.continue_from(0, 0))
        most = max(map(len, plays))
        ended = (self.FRAMES, 0, 0, 0, 0)
        table = torch.tensor([[*play, *[ended] * (most - len(play))] for play in plays])  # (plays, S, 5)
        frames, past, *chosen = table.unbind(2)
        self.steps, acts = Steps(frames, chosen[1]), frames < self.FRAMES
        log_probs = [
            self.logits[kind].log_softmax(-1)[frames.clamp_max(self.FRAMES - 1), past, choice] * acts
            for kind, choice in enumerate(chosen)
        ]
        self.classes, self.jumps, cells = log_probs
        self.cells = cells[:, :-1] * acts[:, 1:]  # the cell after the last step is not drawn
        self.probabilities = (self.classes.sum(1) + self.jumps.sum(1) + self.cells.sum(1)).exp()
        source = UnevenSource(
            features=np.ones((1, self.FRAMES, 2, 2, 1), np.float32), labels=np.array([-1]), class_names=("a", "b"),
            frames_per_second=1.0, lengths=(self.FRAMES,),
            truths=((Segment(-0.5, 1.5, 0), Segment(1.5, 2.5, 1), Segment(2.5, 3.5, 0)),),
        )  # fmt: skip
        envs = VideoGlimpseVectorEnv(
            len(plays), source=source, glimpses=1, jumps=self.JUMPS, frame_cost=0.3, matching=matching, eta=0.4,
            abstain=False, autoreset_mode="Disabled",
        )  # fmt: skip
        observations, _ = envs.reset()
        actions = iter(table[:, :, [4, 3, 2]].transpose(0, 1).numpy())
        outcome = play_out(envs, observations, lambda _: next(actions), torch.device("cpu"))
        predictions = torch.from_numpy(envs.engine.predictions)
        nothing = torch.zeros(len(plays), self.FRAMES, 4)
        self.rollout = Rollout(
            clips=envs.engine.clip, attention=nothing, entropy=nothing[..., 0], predictions=predictions,
            class_logits=nothing, actors=None, steps=self.steps, **outcome,
        )  # fmt: skip

    def continue_from(self, frame, past):
        """Yield the rests of episodes: for each step its frame, the last cell, class, jump and cell."""
        for said in range(2):
            for jump, length in enumerate(self.JUMPS):
                if frame + length >= self.FRAMES:
                    yield [(frame, past, said, jump, 0)]
                    continue
                for cell in range(2):
                    for rest in self.continue_from(frame + length, cell):
                        yield [(frame, past, said, jump, cell), *rest]

    def gradient(self, value):
        return torch.autograd.grad(value, self.logits, retain_graph=True)[0]


@pytest.mark.parametrize("credit", ["causal", "terminal"])
@pytest.mark.parametrize("matching", ["frame", "segment"])
def test_expected_estimate_is_the_gradient_of_the_expected_reward(matching, credit):
    every = AllPlays(matching)
    assert every.probabilities.sum().item() == pytest.approx(1.0)
    exact = every.gradient((every.probabilities * every.rollout.rewards).sum())
    config = Config().with_settings(
        {
            "matching": matching, "credit": credit, "reward": "eq7", "rollouts": 2, "jumps": (1, 2), "frame_cost": 0.3,
            "abstain": True,
        }
    )  # fmt: skip
    pairs = torch.cartesian_prod(*[torch.arange(len(every.probabilities))] * 2).flatten()
    weights = every.probabilities.detach()[pairs].reshape(-1, 2).prod(1).repeat_interleave(2) * len(pairs) / 2
    rollout = every.rollout.rows(pairs)
    advantages = Advantages.of(rollout, config)
    # Advantages are divided by one number for all of an update.
    raw = leave_one_out(frame_returns(rollout, config).reshape(-1, 2, 3)).square().mean().sqrt()
    raw_classes = leave_one_out(class_returns(rollout, config).reshape(-1, 2, 4)).square().mean().sqrt()
    loss = policy_gradient_loss(every.jumps[pairs], advantages.jumps * raw * weights[:, None])
    loss = loss + policy_gradient_loss(every.cells[pairs], advantages.cells * raw * weights[:, None])
    standing = every.steps.standing(every.classes, every.FRAMES)[pairs]
    loss = loss + policy_gradient_loss(standing, advantages.classes * raw_classes * weights[:, None])
    assert exact.abs().amax((1, 2, 3)).min() > 0.01
    torch.testing.assert_close(-every.gradient(loss), exact, rtol=1e-4, atol=1e-5)


def test_jumps_are_credited_with_the_reward_that_pays_for_frames():
    every = AllPlays("frame")
    settings = {"rollouts": 2, "jumps": (1, 2), "frame_cost": 0.3, "abstain": True}
    pairs = torch.cartesian_prod(*[torch.arange(len(every.probabilities))] * 2).flatten()
    by_eq7, by_log_score = (
        Advantages.of(every.rollout.rows(pairs), Config().with_settings(settings | {"reward": reward}))
        for reward in ("eq7", "frame_log_score")
    )
    assert torch.equal(by_eq7.jumps, by_log_score.jumps)
    assert not torch.equal(by_eq7.cells, by_log_score.cells)
    paid, free = (
        frame_returns(
            every.rollout, Config().with_settings(settings | {"reward": "frame_log_score", "frame_cost": cost})
        )
        for cost in (0.3, 0.0)
    )
    assert torch.equal(paid, free)  # nats are no reward


# ---- rollouts


@pytest.mark.parametrize("network", [{}, {"scorer": "memory", "slice_weights": "attended", "encoder": "sum"}])
@pytest.mark.parametrize("first_glance", ["whole", "none"])
def test_the_update_sees_the_network_that_acted(network, first_glance):
    config = tiny_config(jumps=(1, 2, 3), frame_cost=0.25, first_glance=first_glance, abstain=False, **network)
    source = marked_source(6, frames=7)
    envs, policy = make_envs(config, source, 12, train=True), make_policy(config, source)
    torch.nn.init.normal_(policy.jump_head.weight)
    torch.nn.init.zeros_(policy.jump_head.bias)  # so that all jumps are drawn
    with torch.no_grad():
        masks = policy.draw_masks(12, Noise.seeded(1))
        rollout = collect_rollout(
            envs, policy, np.arange(12) % 6, PlaySettings(sample_classes=True), noise=Noise.seeded(2), masks=masks
        )
        class_logits, cell_logits, jump_logits = policy(
            rollout.first, rollout.rest, rollout.views, masks, steps=rollout.steps
        )
    steps, observed = rollout.steps, rollout.observed()
    entropy = torch.nn.functional.pad(first_draw_entropy(cell_logits), (0, 1), value=torch.nan)
    entropy = steps.standing(entropy, 7)[:, :-1]  # at all frames, as the rollout has it
    known = ~entropy.isnan()
    assert known.float().mean() > 0.8
    torch.testing.assert_close(entropy[known], rollout.entropy[known])
    torch.testing.assert_close(steps.standing(class_logits, 7), rollout.class_logits)
    assert jump_logits.shape == (*steps.jumps.shape, 3)
    assert (rollout.predictions.numpy() == envs.engine.predictions).all()
    # An episode observes frame 1, and each next frame by the jump that it chose.
    for frames, jumps in zip(steps.frames.tolist(), steps.jumps.tolist(), strict=True):
        assert frames[0] == 0
        for (frame, following), jump in zip(pairwise(frames), jumps, strict=False):
            assert following == min(frame + 1 + jump, 7)
    assert 1 < observed.sum(1).float().mean() < 7
    assert (rollout.looked.any(2) == observed[:, 1:]).all()
    assert (rollout.glimpses == 2 * (observed.sum(1) - 1)).all()
    assert (rollout.rewards + 0.25 * (observed.sum(1) - 1)).allclose(rollout.shares.sum(1))


@pytest.mark.parametrize(("jumps", "observed"), [((1,), 6), ((2,), 3), ((4,), 2), ((9,), 1)])
def test_one_jump_is_a_stride(jumps, observed):
    config = tiny_config(jumps=jumps, abstain=False)
    source = marked_source(6, frames=6)
    policy = make_policy(config, source)
    assert policy.jump_head is None
    measured = evaluate_split(config, policy, source)
    assert measured.frames_observed == observed
    if jumps == (1,):  # as without jumps
        plain = evaluate_split(tiny_config(abstain=False), policy, source)
        assert plain.frames_observed is None
        assert (plain.accuracy, plain.reward, plain.focus) == (measured.accuracy, measured.reward, measured.focus)


def test_random_jumps_are_uniform_and_the_oracle_looks_at_the_frame_that_it_jumps_to():
    source = marked_source(4, frames=9)
    config = tiny_config(jumps=(1, 3), model="oracle", abstain=False)
    envs, policy = make_envs(config, source, 200, train=False), make_policy(config, source)
    with torch.no_grad():
        rollout = collect_rollout(
            envs, policy, np.arange(200) % 4, PlaySettings(model=MODELS["oracle"], greedy=True), noise=Noise.seeded(1)
        )
    first = rollout.steps.jumps[:, 0].float().mean()
    assert 0.4 < first < 0.6
    assert (rollout.hits().any(2) == rollout.observed()[:, 1:]).all()


@pytest.mark.parametrize(("jumps", "share"), [((1, 9), 1.0), ((9,), None)])
def test_episodes_that_stop_at_the_first_frame_do_not_count_for_the_focus(jumps, share):
    source = marked_source(60, frames=6)
    config = tiny_config(jumps=jumps, model="oracle", glimpses=1, random_jumps=len(jumps) > 1, abstain=False)
    measured = evaluate_split(config, make_policy(config, source), source)
    assert 1 <= measured.frames_observed < 4
    assert (measured.focus, measured.attention_on_actor) == (share, share)


# ---- learning


def test_the_logged_focus_is_that_of_observed_frames():
    splits = dict.fromkeys(("train", "validation", "test"), marked_source(12, frames=8))
    trainer = Trainer(tiny_config(model="oracle", jumps=(1, 4), abstain=False, jump_share=1.0), splits)
    rollout, masks = reinforce.collect(trainer)
    assert not rollout.observed().all()
    assert reinforce.update(trainer, rollout, masks)["train/focus"] == 1.0


@pytest.mark.parametrize("random_jumps", [False, True])
def test_jumps_come_last_and_are_drawn_before_they_are_learned(random_jumps):
    settings = {"abstain": False, "updates": 20, "jump_share": 0.4, "jumps": (1, 2), "random_jumps": random_jumps}
    splits = dict.fromkeys(("train", "validation", "test"), marked_source(12, frames=8))
    trainer = Trainer(tiny_config(**settings), splits)
    jumped, changed = [], []
    for trainer.num_updates in range(20):
        head = trainer.policy.jump_head
        before = None if head is None else head.bias.detach().clone()
        rollout, masks = reinforce.collect(trainer)
        jumped.append(not rollout.observed().all())
        reinforce.update(trainer, rollout, masks)
        changed.append(head is not None and not torch.equal(head.bias, before))
    assert jumped == [False] * 12 + [True] * 8
    assert changed == ([False] * 20 if random_jumps else [False] * 14 + [True] * 6)


def plain_splits():
    """Return splits of clips of four frames, of which all but the first show the class in every cell."""
    labels = np.arange(24) % 3
    features = np.zeros((24, 4, 3, 3, 4), np.float32)
    features[:, 1:, ..., 1:] = np.eye(3)[labels][:, None, None, None]
    source = ArraySource(features=features, labels=labels, class_names=("a", "b", "c"))
    return dict.fromkeys(("train", "validation", "test"), source)


@pytest.mark.parametrize(("cost", "observed"), [(3.0, 1.0), (0.7, 2.0)])
def test_a_frame_is_observed_if_it_is_worth_its_cost(tmp_path, cost, observed):
    """To look once is worth 3 frames * 2/3 = 2 of the reward; to look again is worth nothing."""
    config = tiny_config(
        jumps=(1, 4), frame_cost=cost, abstain=False, updates=60, clips=8, rollouts=4, validate_every=60,
        warmup_share=0.2, jump_share=0.8, glimpses=1, learning_rate=3e-2, entropy_bonus=0.03,
    )  # fmt: skip
    measured = reinforce.train(config, tmp_path / "run", sources=plain_splits()).measured
    assert measured.frames_observed == observed
    assert (measured.accuracy == 1.0) == (observed > 1)


# ---- refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"jumps": (2, 1)}, r"jumps must be ascending positive integers .*, got \(2, 1\)"),
        ({"frame_cost": -1.0}, "frame_cost must be at least 0, got -1"),
        (
            {"jumps": (1, 2), "model": "soft"},
            "jumps need a model that chooses cells by REINFORCE or a rule, got 'soft'",
        ),
        ({"jumps": (1, 2), "model": "gumbel"}, "jumps need a model that .*, got 'gumbel'"),
        ({"jumps": (1, 2), "observation": "cube"}, "jumps need observation='glimpsed', got 'cube'"),
        ({"jumps": (1, 2), "baseline": "value"}, "jumps need the baseline 'leave_one_out' or 'none', got 'value'"),
    ],
)
def test_settings_that_cannot_jump(settings, message):
    with pytest.raises(ValueError, match=message):
        Config().with_settings(settings)


def test_jumps_go_through_json():
    config = Config().with_settings({"jumps": (1, 2, 4)})
    fields = config.to_json()
    fields["task"]["advanced"]["jumps"] = [1, 2, 4]  # as JSON holds it
    assert Config.from_json(fields) == config
