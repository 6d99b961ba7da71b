"""Speed of two processes that share each update, relative to one: updates per second at sizes of real features.

pytest tests/benchmarks/test_distributed_speed.py --benchmark-only
"""

import os
import statistics
import subprocess
import sys

FLOOR = 1.6
ROUNDS = 3
TRAIN = """
import time
from glimpse_agents import reinforce
from glimpse_agents.learning.presets import PRESETS
from glimpse_agents.parallel.ranks import join_ranks
from profiler.iteration import make_trainer, random_features

config = PRESETS["features"].with_settings({"glimpses": 5, "rollouts": 4, "jitter": False})
with join_ranks() as share:
    trainer = make_trainer(config, random_features(7, 1024, 30, config.training.clips))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        reinforce.update(trainer, *reinforce.collect(trainer))
        trainer.num_updates += 1
        times.append(time.perf_counter() - start)
    if share.is_first:
        print("updates per second", 1 / min(times[1:]))
"""


def test_speed_of_two_processes(benchmark, report, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    rates = {1: [], 2: []}

    def run(processes):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        path = os.pathsep.join(filter(None, sys.path))
        finished = subprocess.run(
            [sys.executable, *launcher, str(script)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        rates[processes].append(float(finished.stdout.split("updates per second")[1]))

    benchmark.pedantic(lambda: [run(processes) for processes in (1, 2)], rounds=ROUNDS)
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    one, two = (max(rates[processes]) for processes in (1, 2))
    report(
        f"updates per second in the best round: one process {one:.3f}, two {two:.3f}, ratio {two / one:.2f}; "
        f"median of the rounds {statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)}); "
        f"floor {FLOOR}"
    )
    assert statistics.median(ratios) >= FLOOR
