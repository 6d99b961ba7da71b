"""Train a recurrent policy with PufferLib's PuffeRL on `VideoGlimpse-v0`, on the CPU.

    python -m venv puffer && . puffer/bin/activate
    pip install pufferlib-core==3.0.23 "numpy<2" && pip install -e .     # installs torch 2.9.0 and gymnasium
    python examples/train_pufferlib.py
    python examples/train_pufferlib.py --steps 10000                     # a smoke test

Tested with Python 3.11, pufferlib-core 3.0.23, gymnasium 1.4.0, torch 2.9.0 and numpy 1.26.4. pufferlib-core is Metta's
copy of PufferLib 3.0 without its games, with wheels. pufferlib 3.0.0 itself is source only and did not build here.
PufferLib's emulation takes the MultiDiscrete action as it is. Its vector environments step single environments, not
ours. PuffeRL clips rewards to [-1, 1], and clears an LSTM's state between batches, not between episodes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import own_features

import glimpse_env  # noqa: F401 - registers VideoGlimpse-v0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train PufferLib's PuffeRL on a small task.")
    parser.add_argument("--steps", type=int, default=60_000, help="Environment steps to train for.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of every random choice.")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before the next imports, so that --help works without them

try:
    import pufferlib.emulation
    import pufferlib.models
    import pufferlib.vector
    import torch
    from pufferlib.pufferl import PuffeRL
    from torch import nn
except ModuleNotFoundError as error:
    sys.exit(f'{error.name} is missing: pip install pufferlib-core==3.0.23 "numpy<2" && pip install -e .')

FRAMES, ENVS = own_features.FRAMES, 256
SIZES = {"clips": 2048, "grid": 3}  # a small grid, so that it learns in minutes


class FinalInfo(gym.Wrapper):
    """Keep only the info of an episode's end, because PuffeRL averages every info it gets."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(**kwargs)[0], {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        final = {"reward": reward, "is_correct": info["is_correct"]} if terminated else {}
        return observation, reward, terminated, truncated, final


class Trainer(PuffeRL):
    def print_dashboard(self, *_: Any, **__: Any) -> None:
        """Print no dashboard."""


def make_env(source: Any, buf: Any = None, seed: int = 0) -> pufferlib.emulation.GymnasiumPufferEnv:
    """Make an environment with rewards in [-1, 1], because PuffeRL clips them there."""
    env = gym.make(
        "VideoGlimpse-v0", glimpses=1, source=source, positive_reward=2 / FRAMES, negative_reward=-2 / FRAMES
    )
    return pufferlib.emulation.GymnasiumPufferEnv(env=FinalInfo(env), buf=buf, seed=seed)


@torch.no_grad()
def evaluate(policy: nn.Module, source: Any) -> tuple[float, float]:
    """Play every clip once, greedily, in the native vector environment; return the mean return and the accuracy."""
    clips = np.arange(source.num_clips)
    envs = gym.make_vec("VideoGlimpse-v0", num_envs=len(clips), glimpses=1, source=source, autoreset_mode="Disabled")
    observations, infos = envs.reset(options={"clip": clips})
    state = {"lstm_h": None, "lstm_c": None}
    rewards = np.zeros(len(clips))
    for _ in range(FRAMES):
        logits, _ = policy.forward_eval(torch.as_tensor(observations), state)
        actions = torch.stack([part.argmax(1) for part in logits], 1)
        observations, rewards, _, _, infos = envs.step(actions.numpy())
    return float(rewards.mean()), float(infos["is_correct"].mean())


def main(steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    source, held_out = (own_features.make_source(np.random.default_rng(s), **SIZES) for s in (seed, seed + 1))
    envs = pufferlib.vector.make(
        make_env, env_kwargs={"source": source}, backend=pufferlib.vector.Serial, num_envs=ENVS, seed=seed
    )
    policy = pufferlib.models.LSTMWrapper(envs.driver_env, pufferlib.models.Default(envs.driver_env))
    batch = ENVS * (FRAMES + 1)
    config = {
        "seed": seed,
        "device": "cpu",
        "torch_deterministic": True,
        "cpu_offload": False,
        "compile": False,
        "precision": "float32",
        "use_rnn": True,
        "total_timesteps": max(steps, batch),
        "batch_size": batch,
        "bptt_horizon": FRAMES + 1,  # an episode and its reset, so that the LSTM starts each one with a clear state
        "minibatch_size": batch // 4,
        "max_minibatch_size": batch // 4,
        "update_epochs": 4,
        "optimizer": "adam",
        "learning_rate": 3e-3,
        "anneal_lr": True,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_eps": 1e-5,
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "clip_coef": 0.2,
        "vf_coef": 0.5,
        "vf_clip_coef": 0.2,
        "ent_coef": 0.005,
        "max_grad_norm": 0.5,
        "prio_alpha": 0.0,
        "prio_beta0": 1.0,
        "vtrace_rho_clip": 1.0,
        "vtrace_c_clip": 1.0,
        "checkpoint_interval": 1_000_000,
        "data_dir": tempfile.mkdtemp(),  # a checkpoint is written at the end
    }
    print("before: mean return {:.2f}, accuracy {:.2f}".format(*evaluate(policy, held_out)))
    trainer = Trainer(config, envs, policy)
    while trainer.global_step < config["total_timesteps"]:
        played = trainer.evaluate()
        reward, correct = np.mean(played["reward"]), np.mean(played["is_correct"])
        print(f"{trainer.global_step} steps: reward {reward:.2f}, accuracy {correct:.2f}")
        trainer.train()
    trainer.utilization.stop()
    print("after: mean return {:.2f}, accuracy {:.2f}".format(*evaluate(policy, held_out)))


if __name__ == "__main__":
    main(**vars(ARGUMENTS))
