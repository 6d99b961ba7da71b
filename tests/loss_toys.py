"""Labels, logits and rollouts that tests of credit and losses share."""

import numpy as np
import torch
from glimpse_agents.parallel.noise import Noise
from glimpse_agents.playing.envs import make_policy
from glimpse_agents.playing.players import PlaySettings
from glimpse_agents.playing.rollout import collect_rollout

from glimpse_env import VideoGlimpseVectorEnv

QUARTERS = torch.tensor([1.0, 3.0]).log()  # softmax 1/4, 3/4


def one_hot_labels(*rows):
    """Return (1, T, 2) bool, a string of class digits for each frame, empty for background."""
    return torch.tensor([[[str(label) in row for label in range(2)] for row in rows]])


def play(config, source, clips, settings=None):
    """Return a policy whose rewards depend on its looks, a rollout of it with repeated clips, and its masks."""
    for seed in range(20):
        policy, rng = make_policy(config, source), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.copy_(2 * torch.randn(parameter.shape, generator=rng))
        envs = VideoGlimpseVectorEnv(
            len(clips), source=source, glimpses=config.task.glimpses, eta=config.task.eta, abstain=config.task.abstain,
            matching=config.task.matching, observation="slices", autoreset_mode="Disabled",
        )  # fmt: skip
        noise = Noise(rng)
        masks = policy.draw_masks(len(clips), noise)
        chosen = settings or PlaySettings(
            sample_classes=config.samples_classes, random_share=config.training.advanced.random_share
        )
        rollout = collect_rollout(envs, policy, np.asarray(clips), chosen, noise=noise, masks=masks)
        if any(len(rollout.rewards[np.asarray(clips) == clip].unique()) > 1 for clip in set(clips)):
            return policy, rollout, masks
    raise AssertionError("none of these networks depends on its looks")
