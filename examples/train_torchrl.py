"""Train TorchRL's PPO on `VideoGlimpseEasy-v0`, with an LSTM and the MultiDiscrete action as it is.

    pip install torchrl==0.14.1 "gymnasium==1.4.0" && pip install -e .
    python examples/train_torchrl.py                    # a minute or two on one core
    python examples/train_torchrl.py --steps 20000      # a smoke test

Tested with Python 3.11, TorchRL 0.14.1, tensordict 0.14.3, torch 2.13 and Gymnasium 1.4. TorchRL resets environments
itself, so the native vector environment needs `autoreset_mode="Disabled"`. It refuses "NextStep" (the default), and
"SameStep" fails on `clip_id`, a string in `info`. `GymEnv(..., categorical_action_encoding=True)` makes a single
environment; without that flag its action is one-hot. TorchRL has no distribution for several categorical parts of
different sizes, so this file defines one. The agent learns from the reward alone.
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
    parser = task_parser("Train TorchRL's PPO on VideoGlimpseEasy-v0.", steps=400_000)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before the next imports, so that --help works without them

with installed_by('pip install torchrl==0.14.1 "gymnasium==1.4.0" && pip install -e .'):
    import torch
    from tensordict import TensorDict
    from tensordict.nn import ProbabilisticTensorDictModule as Draw
    from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule, TensorDictSequential
    from torch import Tensor, nn
    from torchrl.collectors import Collector
    from torchrl.envs import Compose, GymEnv, GymWrapper, InitTracker, TransformedEnv, check_env_specs
    from torchrl.modules import LSTMModule, set_recurrent_mode
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value import GAE

NUM_ENVS, HIDDEN = 512, 64


class MultiCategorical(torch.distributions.Distribution):
    """Independent categorical parts with concatenated logits."""

    def __init__(self, logits: Tensor, sizes: tuple[int, ...]) -> None:
        self.parts = [torch.distributions.Categorical(logits=part) for part in logits.split(sizes, -1)]
        super().__init__(logits.shape[:-1], torch.Size([len(sizes)]), validate_args=False)

    def sample(self, shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return torch.stack([part.sample(shape) for part in self.parts], -1)

    @property
    def deterministic_sample(self) -> Tensor:
        return torch.stack([part.probs.argmax(-1) for part in self.parts], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum(part.log_prob(value[..., i]) for i, part in enumerate(self.parts))

    def entropy(self) -> Tensor:
        return sum(part.entropy() for part in self.parts)


def train(steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    check_env_specs(GymEnv(TASK, categorical_action_encoding=True))
    native = gym.make_vec(TASK, num_envs=NUM_ENVS, autoreset_mode="Disabled")
    envs = TransformedEnv(GymWrapper(native), Compose(InitTracker()))
    check_env_specs(envs)
    sizes = tuple(native.single_action_space.nvec.tolist())

    features = int(np.prod(native.single_observation_space.shape))
    encoder = nn.Sequential(nn.Flatten(-3), nn.Linear(features, HIDDEN), nn.ReLU())
    encoder = TensorDictModule(encoder, in_keys=["observation"], out_keys=["embedded"])
    lstm = LSTMModule(HIDDEN, HIDDEN, in_key="embedded", out_key="hidden")
    envs.append_transform(lstm.make_tensordict_primer())
    logits = TensorDictModule(nn.Linear(HIDDEN, sum(sizes)), in_keys=["hidden"], out_keys=["logits"])
    draw = Draw(
        in_keys=["logits"],
        out_keys=["action"],
        distribution_class=MultiCategorical,
        distribution_kwargs={"sizes": sizes},
        default_interaction_type="random",
        return_log_prob=True,
    )
    policy = ProbabilisticTensorDictSequential(encoder, lstm, logits, draw)
    head = TensorDictModule(nn.Linear(HIDDEN, 1), in_keys=["hidden"], out_keys=["state_value"])
    value = TensorDictSequential(encoder, lstm, head)

    advantage = GAE(gamma=1.0, lmbda=0.95, value_network=value, average_gae=True, deactivate_vmap=True)
    loss = ClipPPOLoss(policy, value, entropy_coeff=0.02, critic_coeff=0.5, loss_critic_type="l2")
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)

    @torch.no_grad()
    def act(observations: NDArray[np.float32], data: TensorDict | None) -> tuple[NDArray[np.int64], Any]:
        count = len(observations)
        starts = data is None
        if starts:
            zeros = torch.zeros(count, 1, HIDDEN)
            data = TensorDict({"recurrent_state_h": zeros, "recurrent_state_c": zeros}, [count])
        data["observation"] = torch.as_tensor(observations)
        data["is_init"] = torch.full((count, 1), starts)
        policy(data)
        return data["action"].numpy(), data["next"]

    print("before:", play(act))
    batch = NUM_ENVS * FRAMES
    envs.set_seed(seed)
    collector = Collector(envs, policy, frames_per_batch=batch, total_frames=max(batch, steps // batch * batch))
    for update, data in enumerate(collector):
        if update % 20 == 0:
            print(f"{update * batch:>9} steps: mean return {data['next', 'reward'].sum(1).mean().item():.2f}")
        data["next", "reward"] /= FRAMES
        with set_recurrent_mode(True):
            with torch.no_grad():
                advantage(data)
            for _ in range(4):
                for chosen in torch.randperm(NUM_ENVS).chunk(4):  # whole environments: the LSTM needs their order
                    losses = loss(data[chosen])
                    optimizer.zero_grad()
                    (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
                    nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
                    optimizer.step()
    print("after:", play(act))


if __name__ == "__main__":
    train(**vars(ARGUMENTS))
