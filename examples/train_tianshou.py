"""Train Tianshou's PPO on `VideoGlimpseEasy-v0`.

    pip install tianshou==2.0.1 torch==2.13.0 && pip install -e .
    python examples/train_tianshou.py
    python examples/train_tianshou.py --steps 4096      # a smoke test

Tested with Python 3.11, tianshou 2.0.1, gymnasium 1.4.0, torch 2.13.0 and numpy 2.4.6. Tianshou accepts a MultiDiscrete
action space without a distribution for it: here each number is an independent categorical. Its collectors require its
own vector environments, so it steps single environments, not the native vector environment. Its PPO has no memory
between frames, so the policy has to keep looking at the actor.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from common import TASK, installed_by, play, task_parser
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = task_parser("Train Tianshou's PPO on VideoGlimpseEasy-v0.", steps=550_000)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before the next imports, so that --help works without them

with installed_by("pip install tianshou==2.0.1 torch==2.13.0 && pip install -e ."):
    import torch
    from tianshou.algorithm import PPO
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Batch, Collector, CollectStats, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OnPolicyTrainerParams
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
    from torch import Tensor
    from torch.distributions import Categorical, Independent
    from torch.nn.functional import pad


def independent(logits: Tensor, counts: list[int]) -> Independent:
    """Turn (N, sum of counts) logits into one categorical per number of the action, padded to the widest."""
    parts = [pad(part, (0, max(counts) - part.shape[-1]), value=-1e9) for part in logits.split(counts, -1)]
    return Independent(Categorical(logits=torch.stack(parts, 1)), 1)


def main(steps: int, seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002 - Tianshou shuffles with the global generator
    torch.manual_seed(seed)
    envs = DummyVectorEnv([lambda: FlattenObservation(gym.make(TASK))] * 32)
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
        ent_coef=0.02,
        max_grad_norm=0.5,
    )

    @torch.no_grad()
    def act(observations: NDArray[np.float32], *_: Any) -> tuple[NDArray[np.int64], None]:
        batch = Batch(obs=observations.reshape(len(observations), -1), info=Batch())
        return policy(batch).act.numpy(), None

    print("before:", play(act))
    collector = Collector[CollectStats](algorithm, envs, VectorReplayBuffer(4096, len(envs)))
    collector.reset(gym_reset_kwargs={"seed": seed})
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=steps,
            collection_step_num_env_steps=4096,
            update_step_num_repetitions=4,
            batch_size=1024,
        )
    )
    print("after:", play(act))


if __name__ == "__main__":
    main(**vars(ARGUMENTS))
