"""Train a recurrent policy with PufferLib's PuffeRL on `VideoGlimpseEasy-v0`, on the CPU.

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
import tempfile
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from common import FRAMES, TASK, installed_by, play, task_parser
from numpy.typing import NDArray


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = task_parser("Train PufferLib's PuffeRL on VideoGlimpseEasy-v0.", steps=400_000)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before the next imports, so that --help works without them

with installed_by('pip install pufferlib-core==3.0.23 "numpy<2" && pip install -e .'):
    import pufferlib.emulation
    import pufferlib.models
    import pufferlib.vector
    import torch
    from pufferlib.pufferl import PuffeRL

ENVS = 256


class FinalInfo(gym.Wrapper):
    """Keep only the info of an episode's end, as plain numbers, because PuffeRL averages every info it gets."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(**kwargs)[0], {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        final = {"reward": reward, "is_correct": float(info["is_correct"])} if terminated else {}
        return observation, reward, terminated, truncated, final


class Trainer(PuffeRL):
    def print_dashboard(self, *_: Any, **__: Any) -> None:
        """Print no dashboard."""


def make_env(buf: Any = None, seed: int = 0) -> pufferlib.emulation.GymnasiumPufferEnv:
    """Make an environment with rewards in [-1, 1], because PuffeRL clips them there."""
    env = gym.make(TASK, positive_reward=2 / FRAMES, negative_reward=-2 / FRAMES)
    return pufferlib.emulation.GymnasiumPufferEnv(env=FinalInfo(env), buf=buf, seed=seed)


def main(steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    envs = pufferlib.vector.make(make_env, backend=pufferlib.vector.Serial, num_envs=ENVS, seed=seed)
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
        "learning_rate": 1e-3,
        "anneal_lr": True,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_eps": 1e-5,
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "clip_coef": 0.2,
        "vf_coef": 0.5,
        "vf_clip_coef": 0.2,
        "ent_coef": 0.02,
        "max_grad_norm": 0.5,
        "prio_alpha": 0.0,
        "prio_beta0": 1.0,
        "vtrace_rho_clip": 1.0,
        "vtrace_c_clip": 1.0,
        "checkpoint_interval": 1_000_000,
        "data_dir": tempfile.mkdtemp(),  # a checkpoint is written at the end
    }

    @torch.no_grad()
    def act(observations: NDArray[np.float32], state: Any) -> tuple[NDArray[np.int64], Any]:
        state = state or {"lstm_h": None, "lstm_c": None}
        logits, _ = policy.forward_eval(torch.as_tensor(observations), state)
        return torch.stack([part.argmax(1) for part in logits], 1).numpy(), state

    print("before:", play(act))
    trainer = Trainer(config, envs, policy)
    try:
        while trainer.global_step < config["total_timesteps"]:
            played = trainer.evaluate()
            reward, correct = np.mean(played["reward"]), np.mean(played["is_correct"])
            print(f"{trainer.global_step} steps: reward {reward:.2f}, accuracy {correct:.2f}")
            trainer.train()
    finally:
        trainer.utilization.stop()  # a thread that would keep the process alive
    print("after:", play(act))


if __name__ == "__main__":
    main(**vars(ARGUMENTS))
