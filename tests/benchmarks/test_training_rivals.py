"""Training beside what one would write otherwise, clips a second at the same sizes in one run.

    pytest tests/benchmarks/test_training_rivals.py --benchmark-only

7 x 7 x 1024 float16 features, T = 30, LSTM 3 x 512, m = 5, R = 4, 8 clips in an update; random features, since speed
does not depend on them. A round makes one update by each way of training, one after the other, beginning with the next
way each time; ratios are medians of the rounds' own, and beside them those of each way's best round, which what else
runs on the machine disturbs less. All get the same clips, network, dropout and losses, but RecurrentPPO:

- ours in bfloat16: the same with `--policy.precision bfloat16`; the others compute in float32, as they would.
- frame by frame: our rollout with its caches, autograd on while acting, and no second pass in the update.
- textbook: cubes copied for each rollout, every slice projected in every frame by a layer that learns, autograd on.
- RecurrentPPO: SB3-contrib's, one epoch, one minibatch, on `GlimpseVecEnv` with "slices", which show it less and cost
  it less than cubes; LSTM, tanh layer and input of the same widths, no critic LSTM.
"""

import dataclasses
import statistics
import time

import pytest
import torch
from glimpse_agents.learning.config import PRESETS
from profiler.iteration import make_arm, random_features
from rival_loops import Played, TextbookLoop, losses_of_frames, optimise, our_losses

GRID, DEPTH, FRAMES, CLIPS, ROUNDS = 7, 1024, 30, 8, 8
FLOORS = {"frame by frame": 1.0, "textbook": 3.0, "RecurrentPPO": 3.0}  # times as many clips a second as these


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    config = dataclasses.replace(PRESETS["paper"], clips=CLIPS, frames=None)
    return Played(make_arm(config, random_features(GRID, DEPTH, FRAMES, CLIPS), tmp_path_factory.mktemp("arm")))


def recurrent_ppo(source, config):
    """Return a function that plays as many episodes as an update of ours, and learns from them once."""
    contrib = pytest.importorskip("sb3_contrib")
    from glimpse_env.sb3 import GlimpseVecEnv, SliceFeatures

    episodes = config.clips * config.rollouts
    envs = GlimpseVecEnv(episodes, source=source, observation="slices", glimpses=config.glimpses)
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


def ways_of_training(played):
    """Return each way to make one update."""
    arm, generator = played.arm, torch.Generator().manual_seed(1)
    textbook = TextbookLoop(played)

    def in_bfloat16():
        whole = arm.policy.config
        arm.policy.config = dataclasses.replace(whole, precision="bfloat16")
        try:
            optimise(arm, our_losses(played, generator)[0].total)
        finally:
            arm.policy.config = whole

    return {
        "ours": lambda: optimise(arm, our_losses(played, generator)[0].total),
        "ours in bfloat16": in_bfloat16,
        "frame by frame": lambda: optimise(arm, losses_of_frames(played, generator)[0].total),
        "textbook": lambda: optimise(arm, textbook.losses(generator)[0].total, [textbook.components]),
        "RecurrentPPO": recurrent_ppo(arm.envs.source, arm.config),
    }


def seconds(function):
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def test_clips_a_second(benchmark, report, played):
    ways = ways_of_training(played)
    rounds = []

    def measure():
        names = list(ways)
        first = len(rounds) % len(names)
        rounds.append({name: seconds(ways[name]) for name in names[first:] + names[:first]})

    benchmark.pedantic(measure, rounds=ROUNDS, warmup_rounds=1)
    del rounds[0]
    rates = {name: CLIPS / statistics.median(taken[name] for taken in rounds) for name in ways}
    best = {name: min(taken[name] for taken in rounds) for name in ways}
    benchmark.extra_info.update(rates)
    line = ", ".join(f"{name} {rate:.2f} (best {CLIPS / best[name]:.2f})" for name, rate in rates.items())
    report(f"training, {torch.get_num_threads()} threads, clips a second: {line}")
    for ours in ("ours", "ours in bfloat16"):
        for name, floor in FLOORS.items():
            ratios = [taken[name] / taken[ours] for taken in rounds]
            ratio = statistics.median(ratios)
            report(
                f"{ours} is {ratio:.2f} times {name} (rounds {', '.join(f'{one:.2f}' for one in ratios)}; "
                f"best {best[name] / best[ours]:.2f}), floor {floor:.1f}: {'met' if ratio >= floor else 'MISSED'}"
            )
