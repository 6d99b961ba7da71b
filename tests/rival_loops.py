"""Training loops of other implementations, to compare with ours: autograd through the frames as they are played."""

from types import SimpleNamespace

import gymnasium as gym
import torch
import torch.nn.functional as F
from glimpse_agents import reinforce
from glimpse_agents.learning.credit import Advantages
from glimpse_agents.learning.episodes import Looks, Views
from glimpse_agents.learning.glimpses import draw_cells
from glimpse_agents.learning.losses import glimpse_losses
from glimpse_agents.learning.optimise import parts_to_clip
from glimpse_agents.learning.policy import slice_weights
from glimpse_agents.playing.rollout import collect_rollout
from torch import nn


class _Graphed:
    """Replaces `step` of a policy that acts, and keeps the graph of every frame's logits for the update."""

    def __init__(self, policy):
        self.step_of, self.class_logits, self.cell_logits = policy.step, [], []

    def step(self, *arguments):
        with torch.enable_grad():
            class_logits, cell_logits, state = self.step_of(*arguments)
        self.class_logits.append(class_logits)
        self.cell_logits.append(cell_logits)
        return class_logits.detach(), cell_logits.detach(), state

    def logits(self, *_, **__):
        """Return the logits of the episodes without running the network again."""
        return torch.stack(self.class_logits, 1), torch.stack(self.cell_logits[:-1], 1), None


class Played:
    """The clips and the dropout of one update, to play the same clips in other loops.

    Args:
        trainer: takes one update.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        rollout, self.masks = reinforce.collect(trainer)
        self.clips = rollout.clips
        reinforce.update(trainer, rollout, self.masks)

    def rollout(self, noise):
        """Play our rollout."""
        trainer = self.trainer
        settings = reinforce.play_settings(trainer.config, trainer.num_updates)
        return collect_rollout(
            trainer.envs, trainer.policy, self.clips, settings, noise=noise, masks=self.masks, seed=0
        )

    def losses(self, logits, rollout):
        """Return the losses of a rollout under a network, or under a function that returns logits."""
        config = self.trainer.config
        advantages = Advantages.of(rollout, config)
        return glimpse_losses(logits, rollout, self.masks, advantages, config, update=self.trainer.num_updates)


def our_losses(played, noise):
    """Return the losses of our training loop, and the rollout."""
    rollout = played.rollout(noise)
    return played.losses(played.trainer.policy, rollout), rollout


def losses_of_frames(played, noise):
    """Return the losses of our rollout with all its caches, but with autograd in each frame, and the rollout."""
    policy = played.trainer.policy
    graphed = _Graphed(policy)
    policy.step = graphed.step
    try:
        rollout = played.rollout(noise)
    finally:
        del policy.step
    return played.losses(graphed.logits, rollout), rollout


class TextbookLoop(nn.Module):
    """The loop of recurrent-attention implementations, with our network.

    Each rollout copies its own cubes, each frame projects all their slices by a learned layer, and the graph covers
    whole episodes.

    Args:
        played: has the trainer whose policy, configuration and source are used.
    """

    def __init__(self, played):
        super().__init__()
        trainer, config = played.trainer, played.trainer.config
        self.played, self.policy, self.config = played, trainer.policy, config
        self.components = nn.Parameter(trainer.policy.location_head.components.clone())
        self.envs = gym.make_vec(
            "VideoGlimpse-v0",
            num_envs=config.training.clips * config.training.rollouts,
            source=trainer.envs.source,
            glimpses=config.task.glimpses,
            observation="cube",
            autoreset_mode="Disabled",
        )

    def losses(self, noise):
        """Return the losses of one episode of each of the clips, and the record of the episodes."""
        policy, config, shape = self.policy, self.config, self.policy.shape
        clips, masks = self.played.clips, self.played.masks
        observations, _ = self.envs.reset(options={"clip": clips})
        rows, size = torch.arange(len(clips))[:, None], shape.grid_size**2
        cells = torch.arange(size).expand(len(clips), -1)
        weights = torch.full(cells.shape, 1 / size)
        visits, state = torch.zeros(len(clips), size), policy.memory.initial_state(len(clips))
        age = torch.zeros_like(visits)
        steps = []
        for _ in range(shape.frames):
            cubes = torch.from_numpy(observations).flatten(1, 2)  # (N, K, K, D) -> (N, K*K, D)
            slices = cubes[rows, cells]
            content = torch.bmm(weights[:, None], slices)[:, 0] if policy.config.encoder == "sum" else slices
            looks = Looks(content, cells, weights, torch.zeros_like(weights))
            seen = torch.zeros_like(visits).scatter_(1, cells, 1.0)
            age = (age + 1) * (1 - seen)
            view = Views(F.linear(cubes, self.components.T), seen, visits, age, torch.zeros_like(age))
            class_logits, cell_logits, state = policy.step(state, looks, view, masks)
            cells = draw_cells(cell_logits.detach(), config.task.glimpses, noise)
            weights = slice_weights(cell_logits.detach(), cells, policy.config.advanced.slice_weights)
            visits = visits.scatter_add(1, cells, torch.ones_like(cells, dtype=visits.dtype))
            prediction = class_logits.argmax(1)
            actions = torch.cat([cells, prediction[:, None]], 1).numpy()
            observations, rewards, _, _, infos = self.envs.step(actions)
            labels = torch.from_numpy(infos["frame_labels"])
            steps.append((class_logits, cell_logits, cells, prediction, labels, looks, view))
        class_logits, cell_logits, cells, predictions, labels, looks, views = zip(*steps, strict=True)
        rollout = SimpleNamespace(
            attention=torch.full((len(clips), 1, size), 1 / size),
            looked=torch.zeros(len(clips), shape.frames - 1, size, dtype=torch.bool).scatter(
                2, torch.stack(cells[:-1], 1), True
            ),
            observed=lambda: torch.ones(len(clips), shape.frames, dtype=torch.bool),
            first=None,  # the logits are known, so nothing is computed again
            rest=None,
            views=None,
            looks=looks,
            seen=views,
            cells=torch.stack(cells[:-1], 1),
            explored=torch.zeros(len(clips), shape.frames - 1, dtype=torch.bool),
            predictions=torch.stack(predictions, 1),
            class_logits=torch.stack(class_logits, 1).detach(),
            frame_labels=torch.stack(labels, 1),
            rewards=torch.from_numpy(rewards).float(),
            shares=torch.from_numpy(self.envs.unwrapped.engine.shares()).float(),
            steps=None,
            values=None,
            states=None,
        )

        def logits(*_, **__):
            return torch.stack(class_logits, 1), torch.stack(cell_logits[:-1], 1), None

        return self.played.losses(logits, rollout), rollout


def replayed(policy, rollout, masks):
    """Return the logits that our update computes for the episodes of a textbook loop."""
    rest = Looks(*(torch.stack(parts, 1) for parts in zip(*rollout.looks[1:], strict=True)))
    views = Views(*(torch.stack(parts, 1).detach() for parts in zip(*rollout.seen[:-1], strict=True)))
    return policy(rollout.looks[0], rest, views, masks)


def optimise(trainer, loss, others=()):
    """Take a step of the trainer's optimiser; parameters of others are clipped by themselves."""
    trainer.optimizer.zero_grad(set_to_none=True)
    for parameter in others:
        parameter.grad = None
    loss.backward()
    norm = trainer.config.training.advanced.max_grad_norm
    for part in (*parts_to_clip(trainer.policy), others):
        torch.nn.utils.clip_grad_norm_(part, norm)
    trainer.optimizer.step()
