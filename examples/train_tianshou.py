"""Train Tianshou's PPO on `VideoGlimpse-v0`.

    pip install tianshou==2.0.1 torch==2.13.0 && pip install -e .
    python examples/train_tianshou.py
    python examples/train_tianshou.py --steps 4096      # a smoke test

Tested with Python 3.11, tianshou 2.0.1, gymnasium 1.4.0, torch 2.13.0 and numpy 2.4.6. Tianshou accepts a MultiDiscrete
action space without a distribution for it: here each number is an independent categorical. Its collectors require its
own vector environments, so it steps single environments, not the native vector environment. Its PPO has no memory
between frames, so the policy has to keep looking at the bright cell.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import own_features
from gymnasium.wrappers import FlattenObservation

import glimpse_env  # noqa: F401 - registers VideoGlimpse-v0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train Tianshou's PPO on a small task.")
    parser.add_argument("--steps", type=int, default=150_000, help="Environment steps to train for.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of every random choice.")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before the next imports, so that --help works without them

try:
    import torch
    from tianshou.algorithm import PPO
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, CollectStats, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OnPolicyTrainerParams
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
    from torch import Tensor
    from torch.distributions import Categorical, Independent
    from torch.nn.functional import pad
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is missing: pip install tianshou==2.0.1 torch==2.13.0 && pip install -e .")


def make_envs(number: int, seed: int) -> DummyVectorEnv:
    source = own_features.make_source(np.random.default_rng(seed), clips=2048, grid=3)
    return DummyVectorEnv([lambda: FlattenObservation(gym.make("VideoGlimpse-v0", source=source, glimpses=1))] * number)


def independent(logits: Tensor, counts: list[int]) -> Independent:
    """Turn (N, sum of counts) logits into one categorical per number of the action, padded to the widest."""
    parts = [pad(part, (0, max(counts) - part.shape[-1]), value=-1e9) for part in logits.split(counts, -1)]
    return Independent(Categorical(logits=torch.stack(parts, 1)), 1)


def evaluate(policy: ProbabilisticActorPolicy, seed: int) -> tuple[float, float]:
    """Play 400 episodes on held-out clips with sampled actions; return the mean return and the share judged right."""
    correct: list[bool] = []

    def note(episode: Any) -> None:
        correct.append(bool(episode.info.is_correct[-1]))

    collector = Collector[CollectStats](policy, make_envs(20, seed), on_episode_done_hook=note)
    collector.reset(gym_reset_kwargs={"seed": seed})
    stats = collector.collect(n_episode=400)
    return float(stats.returns.mean()), float(np.mean(correct))


def main(steps: int, seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002 - Tianshou shuffles with the global generator
    torch.manual_seed(seed)
    envs = make_envs(32, seed)
    observations, actions = envs.observation_space[0], envs.action_space[0]
    counts = actions.nvec.tolist()
    nets = [Net(state_shape=observations.shape, hidden_sizes=[128, 128]) for _ in range(2)]
    policy = ProbabilisticActorPolicy(
        actor=DiscreteActor(preprocess_net=nets[0], action_shape=sum(counts), softmax_output=False),
        dist_fn=lambda logits: independent(logits, counts),
        action_space=actions,
        action_scaling=False,
    )
    algorithm = PPO(
        policy=policy,
        critic=DiscreteCritic(preprocess_net=nets[1]),
        optim=AdamOptimizerFactory(lr=1e-3),
        gamma=1.0,
        ent_coef=0.002,
        max_grad_norm=0.5,
    )
    print("before: mean return {:.2f}, accuracy {:.2f}".format(*evaluate(policy, seed + 1)))
    collector = Collector[CollectStats](algorithm, envs, VectorReplayBuffer(2048, len(envs)))
    collector.reset(gym_reset_kwargs={"seed": seed})
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=steps,
            collection_step_num_env_steps=2048,
            update_step_num_repetitions=4,
            batch_size=256,
        )
    )
    print("after: mean return {:.2f}, accuracy {:.2f}".format(*evaluate(policy, seed + 1)))


if __name__ == "__main__":
    main(**vars(ARGUMENTS))
