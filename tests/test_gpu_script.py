"""The script that measures a GPU, with small sizes on the CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from extraction_inputs import write_video

SCRIPT = Path(__file__).parent / "benchmarks" / "gpu.sh"
SMALL = {
    "DEVICE": "cpu",
    "BATCH": "2",
    "SAMPLING": "--fps 15 --frames 2 --threads 1 --decoders 1",
    "TRAINING": "--preset small --clips 2 --rollouts 2 --updates 2 --hidden-size 8 --warmup-share 0",
    "ON_DEVICE": "--preset small --clips 2 --rollouts 2 --hidden-size 8 --glimpses 2",
    "ON_CPU": "--preset small --clips 2 --rollouts 2 --hidden-size 8 --glimpses 2",
    "FEATURES": "3 4 3",
    "ITERATIONS": "1",
}


@pytest.mark.slow
def test_the_script_prints_every_number(tmp_path, weights):
    for split in ("train", "val", "test"):
        for name in ("run", "walk"):
            (tmp_path / "videos" / split / name).mkdir(parents=True)
            write_video(tmp_path / "videos" / split / name / f"{split}.mp4", frames=4)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    printed = subprocess.run(
        ["bash", SCRIPT, tmp_path / "videos", weights, tmp_path / "out"],
        env={**os.environ, "PATH": path} | SMALL, text=True, stdout=subprocess.PIPE, check=True,
    ).stdout  # fmt: skip
    for number in (
        r"^bare forward: [\d.]+ frames a second$",
        r"^bare decode: [\d.]+ frames a second$",
        r"^this run: 6 clips, 12 frames, .* [\d.]+ frames a second \(.*network",
        r"^reinforce 2/2  [\d.]+ updates/s",
        r"^rollout +policy step ",
        r"^rollout \d+ ms \+ update \d+ ms: [\d.]+ clips per second$",
        r"^[\d.]+ / [\d.]+ = [\d.]+ times$",
    ):
        assert re.search(number, printed, re.M), (number, printed)
