"""Train an algorithm of Stable-Baselines3 on VideoGlimpse, then play test episodes.

    pip install -e ".[agents,sb3,contrib]"
    python examples/train_sb3.py --task easy --algorithm ppo --steps 550000    # a first task, about a minute
    python examples/train_sb3.py --algorithm recurrent_ppo --steps 1000000 --run runs/rivals/recurrent_ppo
    python -m agents.compare --runs runs/rivals runs/mine    # in one table with runs of agents/reinforce.py

PPO, A2C and RecurrentPPO step 128 episodes at once through `GlimpseVecEnv`. DQN needs one number as its action, so it
gets one look per frame, and cell and class together (`DiscreteAction`). Only RecurrentPPO remembers earlier frames. The
others see the current frame alone, which hides the order of poses that is the class. `--rewards frames` pays every
prediction its share of the reward at once (`FrameRewards`): returns stay the same and are easier to learn from.
Tested with Stable-Baselines3 2.9.2 and sb3-contrib 2.9.2.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
from common import installed_by, task_parser
from gymnasium.wrappers import FlattenObservation

from glimpse_env.wrappers import DiscreteAction, TimeLeft

TASKS = {
    "standard": {"source": "synthetic", "glimpses": 5, "observation": "slices"},
    "easy": {"source": "synthetic-easy", "glimpses": 1, "observation": "glimpsed"},
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = task_parser("Train an algorithm of Stable-Baselines3 on VideoGlimpse.", steps=500_000)
    parser.add_argument(
        "--algorithm",
        choices=("ppo", "a2c", "recurrent_ppo", "dqn"),
        default="recurrent_ppo",
        help="Algorithm to train.",
    )
    parser.add_argument(
        "--task",
        choices=("standard", "easy"),
        default="standard",
        help="Train on VideoGlimpse-v0 or on VideoGlimpseEasy-v0.",
    )
    parser.add_argument(
        "--rewards",
        choices=("end", "frames"),
        default="end",
        help="Pay all predictions at the end of an episode, or each one at its frame.",
    )
    parser.add_argument("--points", type=int, default=20, help="Number of validations during training.")
    parser.add_argument("--test-episodes", type=int, default=1000, help="Number of test episodes.")
    parser.add_argument("--run", type=Path, help="Folder to write as a run for videoglimpse compare; not with dqn.")
    parser.add_argument("--out", type=Path, help="JSON file to write the result and the learning curve to.")
    parsed = parser.parse_args(arguments)
    if parsed.run is not None and parsed.algorithm == "dqn":
        parser.error("--run needs the native actions, which dqn does not have")
    return parsed


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before the next imports, so that --help works without them

with installed_by('pip install -e ".[agents,sb3,contrib]"'):
    from glimpse_agents import evaluate, save_run
    from sb3_contrib import RecurrentPPO
    from stable_baselines3 import A2C, DQN, PPO
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.torch_layers import FlattenExtractor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

    from glimpse_env.sb3 import FrameRewards, GlimpseVecEnv, SliceFeatures

ENVS = 128


def make_envs(algorithm: str, split: str, *, task: str = "standard", rewards: str = "end", envs: int = ENVS) -> VecEnv:
    """Return `envs` environments on a split, in the shape that the algorithm takes."""
    episode = TASKS[task] | {"split": split}
    if algorithm == "dqn":

        def make() -> gym.Env:
            env = gym.make("VideoGlimpse-v0", **episode | {"glimpses": 1})
            return DiscreteAction(TimeLeft(FlattenObservation(env)))

        return VecMonitor(DummyVecEnv([make] * min(envs, 8)), info_keywords=("is_correct",))
    made = VecMonitor(GlimpseVecEnv(envs, **episode), info_keywords=("is_correct",))
    return FrameRewards(made) if rewards == "frames" else made


def make_model(algorithm: str, envs: VecEnv, seed: int) -> BaseAlgorithm:
    """Return the algorithm; gamma is 1, since the only reward comes at the end."""
    shared = {"gamma": 1.0, "seed": seed, "device": "cpu"}
    if algorithm == "dqn":
        return DQN("MlpPolicy", envs, learning_starts=2000, buffer_size=100_000, exploration_fraction=0.5, **shared)
    is_slices = len(envs.observation_space.shape) == 2
    shared["policy_kwargs"] = {"features_extractor_class": SliceFeatures if is_slices else FlattenExtractor}
    if algorithm == "a2c":
        return A2C("MlpPolicy", envs, n_steps=16, learning_rate=1e-3, use_rms_prop=False, **shared)
    if algorithm == "ppo":
        return PPO(
            "MlpPolicy", envs, n_steps=32, batch_size=1024, n_epochs=4, learning_rate=1e-3, ent_coef=0.02, **shared
        )
    shared["policy_kwargs"] |= {
        "lstm_hidden_size": 128, "net_arch": [], "shared_lstm": True, "enable_critic_lstm": False,
    }  # fmt: skip
    return RecurrentPPO(
        "MlpLstmPolicy", envs, n_steps=16, batch_size=1024, n_epochs=4, ent_coef=0.003, gae_lambda=0.8,
        learning_rate=lambda remaining: 3e-3 * remaining, **shared,
    )  # fmt: skip


def play(model: BaseAlgorithm, envs: VecEnv, episodes: int) -> tuple[float, float]:
    """Play greedily and return the share of episodes whose most frequent prediction is right, and the mean reward."""
    ends, state, starts = [], None, np.ones(envs.num_envs, np.bool_)
    observations = envs.reset()
    while len(ends) < episodes:
        actions, state = model.predict(observations, state=state, episode_start=starts, deterministic=True)
        observations, rewards, starts, infos = envs.step(actions)
        ends += [(infos[env]["is_correct"], rewards[env]) for env in np.flatnonzero(starts)]
    accuracy, reward = np.mean(ends[:episodes], axis=0).tolist()
    return accuracy, reward


class Player:
    """The trained algorithm as an agent that `glimpse_agents.evaluate` takes."""

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model = model

    def reset(self, num_envs: int) -> None:
        self.state, self.starts = None, np.ones(num_envs, np.bool_)

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        actions, self.state = self.model.predict(
            observations, state=self.state, episode_start=self.starts, deterministic=True
        )
        self.starts[:] = False
        return actions


class Curve(BaseCallback):
    """Play validation episodes every `every` steps."""

    def __init__(self, envs: VecEnv, *, every: int, episodes: int) -> None:
        super().__init__()
        self.envs, self.every, self.episodes, self.points = envs, every, episodes, []

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.every * (len(self.points) + 1):
            self.points.append((self.num_timesteps, *play(self.model, self.envs, self.episodes)))
            print("{:>10} steps: validation accuracy {:.3f}, reward {:.2f}".format(*self.points[-1]), flush=True)
        return True


def main(
    algorithm: str,
    task: str,
    rewards: str,
    steps: int,
    points: int,
    seed: int,
    test_episodes: int,
    run: Path | None,
    out: Path | None,
) -> None:
    envs = make_envs(algorithm, "train", task=task, rewards=rewards)
    watched = make_envs(algorithm, "validation", task=task)
    watched.seed(seed + 1000)
    model = make_model(algorithm, envs, seed)
    before, _ = play(model, watched, test_episodes)
    curve = Curve(watched, every=max(steps // points, 1), episodes=200)
    start = time.perf_counter()
    model.learn(steps, callback=curve)
    seconds = time.perf_counter() - start
    test = make_envs(algorithm, "test", task=task)
    test.seed(seed + 2000)
    after, reward = play(model, test, test_episodes)
    print(f"{algorithm}: {before:.3f} untrained, {after:.3f} after {steps} steps ({seconds:.0f} s)")
    if run is not None:
        episode = TASKS[task]
        measured, validation = (evaluate(Player(model), split=part, **episode) for part in ("test", "validation"))
        save_run(
            run, f"{algorithm} (Stable-Baselines3)", measured, validation=validation, seed=seed, train_seconds=seconds,
            source=episode["source"], glimpses=episode["glimpses"],
        )  # fmt: skip
        print(f"wrote {run}: accuracy {measured.accuracy:.3f}, focus {measured.focus:.3f}")
    if out is not None:
        settings = {"algorithm": algorithm, "task": task, "rewards": rewards, "seed": seed, "steps": steps}
        result = {"train_seconds": seconds, "vote_accuracy": after, "reward": reward, "curve": curve.points}
        out.write_text(json.dumps(settings | result, indent=1))


if __name__ == "__main__":
    main(**vars(ARGUMENTS))
