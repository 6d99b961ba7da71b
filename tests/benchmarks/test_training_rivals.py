"""Training speed of ours and of other implementations: clips per second at the same sizes, in one process.

    pytest tests/benchmarks/test_training_rivals.py --benchmark-only

7 x 7 x 1024 float16 features, T = 30, LSTM 3 x 512, m = 5, R = 4, 8 clips in an update; random features, since speed
does not depend on them. A round takes one update with each implementation, in an order that rotates. Reported ratios
are medians over the rounds, and those of the best rounds, which other work on the machine disturbs less. There is no
limit. All implementations except RecurrentPPO have the same clips, network, dropout and losses:

- ours in bfloat16: the same with `--precision bfloat16`; all others compute in float32, their default.
- frame by frame: our rollout with its caches, autograd while acting, and no second pass in the update.
- textbook: cubes copied for each rollout, every slice projected in every frame by a learned layer, autograd on.
- RecurrentPPO: SB3-contrib's, one epoch, one minibatch, on `GlimpseVecEnv` with "slices", which show it less and cost
  it less than cubes; LSTM, tanh layer and input of the same widths, no critic LSTM.
"""

import dataclasses
import statistics
import time

import pytest
import torch
from glimpse_agents.learning.presets import PRESETS
from glimpse_agents.parallel.noise import Noise
from profiler.iteration import make_trainer, random_features
from rival_loops import Played, TextbookLoop, losses_of_frames, optimise, our_losses

GRID, DEPTH, FRAMES, CLIPS, ROUNDS = 7, 1024, 30, 8, 8


@pytest.fixture(scope="module")
def played():
    config = PRESETS["paper"].with_settings({"clips": CLIPS, "frames": None})
    return Played(make_trainer(config, random_features(GRID, DEPTH, FRAMES, CLIPS)))


def recurrent_ppo(source, config):
    """Return a function that plays as many episodes as one of our updates, and learns from them once."""
    contrib = pytest.importorskip("sb3_contrib")
    from glimpse_env.sb3 import GlimpseVecEnv, SliceFeatures

    episodes = config.training.clips * config.training.rollouts
    envs = GlimpseVecEnv(episodes, source=source, observation="slices", glimpses=config.task.glimpses)
    hidden = config.policy.hidden_size
    model = contrib.RecurrentPPO(
        "MlpLstmPolicy", envs, n_steps=FRAMES, batch_size=episodes * FRAMES, n_epochs=1, gamma=1.0, device="cpu",
        policy_kwargs={
            "features_extractor_class": SliceFeatures, "features_extractor_kwargs": {"features_dim": DEPTH},
            "net_arch": {"pi": [hidden], "vf": []}, "lstm_hidden_size": hidden, "n_lstm_layers": config.policy.layers,
            "shared_lstm": True, "enable_critic_lstm": False,
        },
    )  # fmt: skip
    return lambda: model.learn(episodes * FRAMES, reset_num_timesteps=False)


def updates_of(played):
    """Return a function for each implementation that takes one update."""
    trainer, noise = played.trainer, Noise.seeded(1)
    textbook = TextbookLoop(played)

    def in_bfloat16():
        config = trainer.policy.config
        trainer.policy.config = dataclasses.replace(
            config, advanced=dataclasses.replace(config.advanced, precision="bfloat16")
        )
        try:
            optimise(trainer, our_losses(played, noise)[0].total)
        finally:
            trainer.policy.config = config

    return {
        "ours": lambda: optimise(trainer, our_losses(played, noise)[0].total),
        "ours in bfloat16": in_bfloat16,
        "frame by frame": lambda: optimise(trainer, losses_of_frames(played, noise)[0].total),
        "textbook": lambda: optimise(trainer, textbook.losses(noise)[0].total, [textbook.components]),
        "RecurrentPPO": recurrent_ppo(trainer.envs.source, trainer.config),
    }


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def test_clips_per_second(benchmark, report, played):
    updates = updates_of(played)
    rounds = []

    def measure():
        names = list(updates)
        first = len(rounds) % len(names)
        rounds.append({name: seconds(updates[name]) for name in names[first:] + names[:first]})

    benchmark.pedantic(measure, rounds=ROUNDS, warmup_rounds=1)
    del rounds[0]
    rates = {name: CLIPS / statistics.median(taken[name] for taken in rounds) for name in updates}
    best = {name: min(taken[name] for taken in rounds) for name in updates}
    benchmark.extra_info.update(rates)
    line = ", ".join(f"{name} {rate:.2f} (best {CLIPS / best[name]:.2f})" for name, rate in rates.items())
    report(f"training, {torch.get_num_threads()} threads, clips per second: {line}")
    for ours in ("ours", "ours in bfloat16"):
        for name in ("frame by frame", "textbook", "RecurrentPPO"):
            ratios = [taken[name] / taken[ours] for taken in rounds]
            report(
                f"{ours} is {statistics.median(ratios):.2f} times {name} "
                f"(rounds {', '.join(f'{one:.2f}' for one in ratios)}; best {best[name] / best[ours]:.2f})"
            )
