"""Train skrl's PPO on `VideoGlimpseEasy-v0`, with an LSTM and the MultiDiscrete action as it is.

    pip install torch skrl==2.1.1 "gymnasium==1.4.0" && pip install -e .
    python examples/train_skrl.py                    # a minute or two on one core
    python examples/train_skrl.py --steps 20000      # a smoke test

Tested with Python 3.11, skrl 2.1.1, torch 2.13 and Gymnasium 1.4. skrl steps the native vector environment itself. With
`autoreset_mode="SameStep"` no step is spent on a reset. "NextStep" (the default) works too, but its resets are learned
from like steps. With "Disabled" the second episode raises ResetNeeded. `PPO_RNN` has an LSTM, `PPO` has no memory.
skrl flattens observations. The agent learns from the reward alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from common import FRAMES, TASK, installed_by, play, task_parser
from numpy.typing import NDArray


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = task_parser("Train skrl's PPO on VideoGlimpseEasy-v0.", steps=400_000)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before the next imports, so that --help works without them

with installed_by('pip install torch skrl==2.1.1 "gymnasium==1.4.0" && pip install -e .'):
    import torch
    from skrl.agents.torch.ppo import PPO_CFG, PPO_RNN
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, Model, MultiCategoricalMixin
    from skrl.trainers.torch import SequentialTrainer
    from skrl.utils import set_seed
    from torch import nn

NUM_ENVS, HIDDEN = 512, 64


class ActorCritic(MultiCategoricalMixin, DeterministicMixin, Model):
    """An LSTM that both the policy and the value read."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        Model.__init__(self, observation_space=observation_space, action_space=action_space, device="cpu")
        MultiCategoricalMixin.__init__(self, role="policy")
        DeterministicMixin.__init__(self, role="value")
        self.embed = nn.Sequential(nn.Linear(int(np.prod(observation_space.shape)), HIDDEN), nn.ReLU())
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
        self.policy = nn.Linear(HIDDEN, int(action_space.nvec.sum()))
        self.value = nn.Linear(HIDDEN, 1)

    def get_specification(self) -> dict:
        return {"rnn": {"sequence_length": FRAMES, "sizes": [(1, NUM_ENVS, HIDDEN)] * 2}}

    def act(self, inputs: dict, *, role: str = "") -> tuple:
        mixin = MultiCategoricalMixin if role == "policy" else DeterministicMixin
        return mixin.act(self, inputs, role=role)

    def compute(self, inputs: dict, role: str = "") -> tuple:
        embedded = self.embed(inputs["observations"])
        length = FRAMES if self.training else 1
        state = [part[:, ::length].contiguous() for part in inputs["rnn"]]
        if self.training:  # whole episodes from their start; the states that skrl 2.1.1 keeps are one step late
            state = [torch.zeros_like(part) for part in state]
        hidden, state = self.lstm(embedded.unflatten(0, (-1, length)), tuple(state))
        head = self.policy if role == "policy" else self.value
        return head(hidden.flatten(0, 1)), {"rnn": list(state)}


def train(steps: int, seed: int) -> None:
    set_seed(seed)
    envs = wrap_env(gym.make_vec(TASK, num_envs=NUM_ENVS, autoreset_mode="SameStep"), verbose=False)
    model = ActorCritic(envs.observation_space, envs.action_space)
    config = PPO_CFG(
        rollouts=FRAMES,
        learning_epochs=4,
        mini_batches=4,
        discount_factor=1.0,
        learning_rate=1e-3,
        entropy_loss_scale=0.02,
        value_loss_scale=0.5,
        rewards_shaper=lambda rewards, *_: rewards / FRAMES,
        experiment={"write_interval": 0, "checkpoint_interval": 0},
    )
    agent = PPO_RNN(
        models={"policy": model, "value": model},
        memory=RandomMemory(memory_size=FRAMES, num_envs=NUM_ENVS),
        observation_space=envs.observation_space,
        action_space=envs.action_space,
        device="cpu",
        cfg=config,
    )

    @torch.no_grad()
    def act(observations: NDArray[np.float32], memory: Any) -> tuple[NDArray[np.int64], Any]:
        if memory is None:
            memory = [torch.zeros(1, len(observations), HIDDEN) for _ in range(2)]
        model.enable_training_mode(False)
        flat = torch.as_tensor(observations).flatten(1)
        actions, outputs = model.act({"observations": flat, "rnn": memory}, role="policy")
        return actions.numpy(), outputs["rnn"]

    print("before:", play(act))
    timesteps = max(FRAMES, steps // NUM_ENVS // FRAMES * FRAMES)
    SequentialTrainer(env=envs, agents=agent, cfg={"timesteps": timesteps, "headless": True}).train()
    print("after:", play(act))


if __name__ == "__main__":
    train(**vars(ARGUMENTS))
