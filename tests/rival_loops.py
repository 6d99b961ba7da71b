"""Training loops as others write them, for comparisons with ours: autograd through the frames as they are played."""

from types import SimpleNamespace

import gymnasium as gym
import torch
import torch.nn.functional as F
from glimpse_agents import reinforce
from glimpse_agents.cost.clocks import Clocks
from glimpse_agents.learning.glimpses import draw_cells
from glimpse_agents.learning.objective import Advantages, glimpse_losses
from glimpse_agents.learning.policy import Looks, Views, slice_weights
from torch import nn


class _Graphed:
    """Stands in for a policy while it acts, and keeps the graph of every frame's logits for the update."""

    def __init__(self, policy):
        self.step_of, self.class_logits, self.cell_logits = policy.step, [], []

    def step(self, *arguments):
        with torch.enable_grad():
            class_logits, cell_logits, state = self.step_of(*arguments)
        self.class_logits.append(class_logits)
        self.cell_logits.append(cell_logits)
        return class_logits.detach(), cell_logits.detach(), state

    def logits(self, *_, **__):
        """Answer an update without running the network again."""
        return torch.stack(self.class_logits, 1), torch.stack(self.cell_logits[:-1], 1)


class Played:
    """The arguments with which an arm's update calls `collect_rollout`, to play the same clips in other loops.

    Args:
        arm: it makes one update.
    """

    def __init__(self, arm):
        self.arm, seen = arm, []
        with Clocks(torch.device("cpu")).on("", reinforce, "collect_rollout", seen=seen):
            arm._train_once()
        self.arguments, self.named, _ = seen
        self.masks, self.clips = self.named["masks"], self.arguments[2]

    def rollout(self, generator):
        """Play our rollout."""
        return reinforce.collect_rollout(*self.arguments, **(self.named | {"generator": generator}))

    def losses(self, logits, rollout):
        """Return the losses of a rollout under a network, or under whatever answers with its logits."""
        arm = self.arm
        advantages = Advantages.of(rollout, arm.config)
        return glimpse_losses(logits, rollout, self.masks, advantages, arm.config, update=arm.update, looking="learned")


def our_losses(played, generator):
    """Return the losses of our training loop, and the rollout."""
    rollout = played.rollout(generator)
    return played.losses(played.arm.policy, rollout), rollout


def losses_of_frames(played, generator):
    """Return the losses of our rollout with all its caches, but with autograd on in each frame, and the rollout."""
    policy = played.arm.policy
    graphed = _Graphed(policy)
    policy.step = graphed.step
    try:
        rollout = played.rollout(generator)
    finally:
        del policy.step
    return played.losses(graphed.logits, rollout), rollout


class TextbookLoop(nn.Module):
    """The loop of recurrent-attention implementations, around the network of an arm.

    Each rollout copies its own cubes, each frame projects every slice of them by a layer that learns, and the graph
    goes through all that was played.

    Args:
        played: by the arm whose policy, configuration and source it takes.
    """

    def __init__(self, played):
        super().__init__()
        arm, config = played.arm, played.arm.config
        self.played, self.policy, self.config = played, arm.policy, config
        self.components = nn.Parameter(arm.policy.components.clone())
        self.envs = gym.make_vec(
            "VideoGlimpse-v0",
            num_envs=config.clips * config.rollouts,
            source=arm.envs.source,
            glimpses=config.glimpses,
            observation="cube",
            autoreset_mode="Disabled",
        )

    def losses(self, generator):
        """Return the losses of one episode of each of the clips, and what was played."""
        policy, config, shape = self.policy, self.config, self.policy.shape
        clips, masks = self.played.clips, self.played.masks
        observations, _ = self.envs.reset(options={"clip": clips})
        rows, size = torch.arange(len(clips))[:, None], shape.grid_size**2
        cells = torch.arange(size).expand(len(clips), -1)
        weights = torch.full(cells.shape, 1 / size)
        visits, state = torch.zeros(len(clips), size), policy.initial_state(len(clips))
        steps = []
        for _ in range(shape.frames):
            cubes = torch.from_numpy(observations).flatten(1, 2)  # (N, K, K, D) -> (N, K*K, D)
            slices = cubes[rows, cells]
            content = torch.bmm(weights[:, None], slices)[:, 0] if policy.config.encoder == "sum" else slices
            looks = Looks(content, cells, weights)
            seen = torch.zeros_like(visits).scatter_(1, cells, 1.0)
            view = Views(F.linear(cubes, self.components.T), seen, visits)
            class_logits, cell_logits, state = policy.step(state, looks, view, masks)
            cells = draw_cells(cell_logits.detach(), config.glimpses, generator)
            weights = slice_weights(cell_logits.detach(), cells, policy.config.slice_weights)
            visits = visits.scatter_add(1, cells, torch.ones_like(cells, dtype=visits.dtype))
            prediction = class_logits.argmax(1)
            actions = torch.cat([cells, prediction[:, None]], 1).numpy()
            observations, rewards, _, _, infos = self.envs.step(actions)
            labels = torch.from_numpy(infos["frame_labels"])
            steps.append((class_logits, cell_logits, cells, prediction, labels, looks, view))
        class_logits, cell_logits, cells, predictions, labels, looks, views = zip(*steps, strict=True)
        rollout = SimpleNamespace(
            first=None,  # the logits are known, so nothing is played again
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
            values=None,
            states=None,
        )

        def logits(*_, **__):
            return torch.stack(class_logits, 1), torch.stack(cell_logits[:-1], 1)

        return self.played.losses(logits, rollout), rollout


def replayed(policy, rollout, masks):
    """Return the logits that our update computes for what a textbook loop played."""
    rest = Looks(*(torch.stack(parts, 1) for parts in zip(*rollout.looks[1:], strict=True)))
    views = Views(*(torch.stack(parts, 1).detach() for parts in zip(*rollout.seen[:-1], strict=True)))
    return policy(rollout.looks[0], rest, views, masks)


def optimise(arm, loss, others=()):
    """Take a step of the arm's optimiser; parameters of others are clipped with its own."""
    arm.optimizer.zero_grad(set_to_none=True)
    for parameter in others:
        parameter.grad = None
    loss.backward()
    torch.nn.utils.clip_grad_norm_([*arm.policy.parameters(), *others], arm.config.max_grad_norm)
    arm.optimizer.step()
