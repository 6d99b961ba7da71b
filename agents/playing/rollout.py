"""Rollouts of every model: a player acts, the vector environments are stepped, and the looks are recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from glimpse_env import VideoGlimpseVectorEnv

from ..learning.episodes import DropoutMasks, Rollout
from ..learning.policy import GlimpsePolicy
from ..parallel.noise import Noise
from .choosing import ChoosingPlayer
from .players import PlaySettings
from .weighing import WeighingPlayer


def collect_rollout(
    envs: VideoGlimpseVectorEnv,
    policy: GlimpsePolicy,
    clips: NDArray[np.int64],
    settings: PlaySettings,
    *,
    noise: Noise,
    masks: DropoutMasks | None = None,
    seed: int | Sequence[int] | None = None,
) -> Rollout:
    """Play one episode of each of the (N,) `clips`.

    In grad mode, attention and class logits of models that learn by back-propagation carry gradients.

    Args:
        envs: N environments that show "slices", or that are "blind" because a bank on the policy's device has the
            features; they must not reset themselves (autoreset_mode "Disabled").
        policy, clips, settings: network, clips of the episodes, and how they are played.
        noise: of cells, classes and mirroring, on the policy's device.
        masks: dropout to act under.
        seed: of the environments, which draw windows if `jitter` is on.

    Returns:
        a `GlimpseRollout` if cells were chosen.
    """
    observations, _ = envs.reset(seed=seed, options={"clip": clips})
    learns, in_grad_mode = settings.model.learns, torch.is_grad_enabled()
    weighs = learns == "soft" or (learns == "gumbel" and in_grad_mode)
    player = (WeighingPlayer if weighs else ChoosingPlayer)(envs, policy, settings, noise, masks)
    with torch.set_grad_enabled(weighs and in_grad_mode):
        with policy.autocast():
            if isinstance(player, ChoosingPlayer) and envs.engine.rules.observation == "slices":
                act = player.act
                outcome = play_out(envs, observations, lambda seen: act(seen).cpu().numpy(), policy.device)
            else:  # the policy needs nothing from the environments, and plays to the end before they are stepped
                actions = iter(player.plan(observations).cpu().numpy())
                outcome = play_out(envs, observations, lambda _: next(actions), policy.device)
        return player.rollout(clips, outcome)


play = torch.no_grad()(collect_rollout)
"""Play with a network that is not being trained."""


def play_out(
    envs: VideoGlimpseVectorEnv,
    observations: NDArray[Any],
    act: Callable[[NDArray[Any]], NDArray[np.int64]],
    device: torch.device,
) -> dict[str, Any]:
    """Step episodes that have just begun to their end, and return the environments' results as a rollout's fields."""
    engine, rewards, infos = envs.engine, np.zeros(envs.num_envs), dict[str, Any]()
    for step in range(engine.rules.frames):
        if engine.rules.jumps is None:
            observations, rewards, _, _, infos = envs.step(act(observations))
            continue
        if step > 1 and engine.done.all():  # a rollout has at least two steps
            break
        going = ~engine.done  # some episodes jump to their end before others
        rewards += engine.advance(engine.check_actions(act(observations), going), going)
        infos, observations = engine.info(), engine.blank()
        engine.observe(observations)
    counted = ("is_correct", "glimpses", "true_positives", "false_positives")
    return {
        "windows": engine.window.copy(),
        "frame_labels": torch.from_numpy(engine.truth()).to(device),
        "rewards": torch.from_numpy(rewards).float().to(device),
        "shares": torch.from_numpy(engine.shares()).float().to(device),
    } | {name: torch.from_numpy(infos[name]) for name in counted}
