"""Train RLlib's PPO with an LSTM on `VideoGlimpseEasy-v0`, with two environment workers or many on a cluster.

    python -m venv rllib && . rllib/bin/activate    # RLlib pins gymnasium 1.2.2: give it an environment of its own
    pip install "ray[rllib]==2.60.0" torch==2.13.0 && pip install -e .
    python examples/train_rllib.py
    python examples/train_rllib.py --steps 4000     # a smoke test

Tested with Python 3.11, ray 2.60.0, gymnasium 1.2.2, torch 2.13.0 and numpy 2.4.6, on the new API stack. For a cluster,
install the same on every node, start Ray there (`ray start --head`, then `ray start --address HEAD:6379` on the others)
and run this file on the head with `--address auto --workers 32`.

The MultiDiscrete action and the LSTM are plain settings. Workers step the native vector environment
(`gym_env_vectorize_mode="vector_entry_point"`). Its creator gets a plain dict, without the worker's index.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from common import TASK, installed_by, task_parser
from gymnasium.wrappers.vector import FlattenObservation


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = task_parser("Train RLlib's PPO on VideoGlimpseEasy-v0.", steps=400_000)
    parser.add_argument("--workers", type=int, default=2, help="Processes that play episodes, one core each.")
    parser.add_argument(
        "--address", help="Address of a Ray cluster, such as auto or ray://host:10001. By default Ray starts here."
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before the next imports, so that --help works without them

with installed_by('pip install "ray[rllib]==2.60.0" torch==2.13.0 && pip install -e .'):
    import ray
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    from ray.tune import register_env


def make_envs(config: Any) -> gym.vector.VectorEnv:
    """Make the native vector environment of one worker, on the clips of a split."""
    return FlattenObservation(gym.make_vec(f"glimpse_env:{TASK}", num_envs=config["num_envs"], split=config["split"]))


def log_accuracy(episode: SingleAgentEpisode, metrics_logger: Any, **_: Any) -> None:
    metrics_logger.log_value("is_correct", float(episode.get_infos(-1)["is_correct"]))


def evaluate(algorithm: Algorithm) -> tuple[float, float]:
    """Play greedily on held-out clips; return the mean return and the share of episodes judged right."""
    results = algorithm.evaluate()["env_runners"]
    return results["episode_return_mean"], results["is_correct"]


def main(steps: int, seed: int, workers: int, address: str | None) -> None:
    ray.init(address, include_dashboard=False)
    register_env("glimpses", make_envs)
    config = (
        PPOConfig()
        .environment("glimpses", env_config={"split": "train"})
        .env_runners(num_env_runners=workers, num_envs_per_env_runner=128, gym_env_vectorize_mode="vector_entry_point")
        .training(
            gamma=1.0, lr=1e-3, entropy_coeff=0.02, train_batch_size_per_learner=2048, minibatch_size=512, num_epochs=4
        )
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[128], use_lstm=True, lstm_cell_size=128))
        .evaluation(
            evaluation_interval=10,
            evaluation_duration=400,
            evaluation_config=PPOConfig.overrides(explore=False, env_config={"split": "test"}),
        )
        .callbacks(on_episode_end=log_accuracy)
        .debugging(seed=seed)
    )
    algorithm = config.build_algo()
    print("before: mean return {:.2f}, accuracy {:.2f}".format(*evaluate(algorithm)))
    played = 0
    while played < steps:
        results = algorithm.train()
        played = results["env_runners"]["num_env_steps_sampled_lifetime"]
        print(f"{played:.0f} steps: mean return {results['env_runners']['episode_return_mean']:.2f}")
    print("after: mean return {:.2f}, accuracy {:.2f}".format(*evaluate(algorithm)))
    algorithm.stop()


if __name__ == "__main__":
    main(**vars(ARGUMENTS))
