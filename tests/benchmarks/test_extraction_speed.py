"""Speed of extraction, compared with the bare forward pass of the network at the same batch and threads.

    VIDEOGLIMPSE_DATA=DIR pytest tests/benchmarks/test_extraction_speed.py --benchmark-only

A round extracts J-HMDB clips from files to a finished store: decoding, resizing, batching, network and disk. Before
and after each round the bare network runs over one batch of normalised pictures again and again. The ratio is the
round's rate over the mean of its two neighbours', so that a machine that slows down slows both. Memory is the most that
this process, tests included, had resident at any time.
"""

import json
import os
import resource
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bare_speed import network_rate

from glimpse_env.extract import Folder, extract
from glimpse_env.video.backbones import keep_freed_memory, load_backbone

DATA = Path(os.environ.get("VIDEOGLIMPSE_DATA", "/nonexistent"))
CLIPS, ROUNDS, BARE_BATCHES = 64, 5, 72  # as many frames in a round as in the bare runs before it
FLOOR = 0.90  # of the bare forward pass: the project's limit


@pytest.fixture
def settings(tmp_path):
    if not DATA.is_dir():
        pytest.skip("VIDEOGLIMPSE_DATA does not point at the real data")
    videos = sorted((DATA / "jhmdb" / "videos").glob("*/*.avi"))
    for video in videos[:: len(videos) // CLIPS][:CLIPS]:
        copy = tmp_path / "videos" / video.parent.name / video.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(video)
    weights = DATA / "weights" / "bvlc_googlenet.safetensors"
    return Folder(videos=tmp_path / "videos", out=tmp_path, weights=weights, frames=15, max_frames=20, fps=15.0)


def test_extraction_keeps_up_with_the_bare_network(benchmark, report, settings, tmp_path):
    assert keep_freed_memory()  # for the bare network as for the extraction
    backbone = load_backbone(settings.backbone, weights=settings.weights)
    bare, extracted = [], []

    def measure_bare():
        torch.set_num_threads(settings.threads)
        bare.append(network_rate(backbone, settings.batch_size, BARE_BATCHES))

    def run():
        out = extract(replace(settings, out=tmp_path / f"store{len(extracted)}"))
        extracted.append(json.loads((out / "report.json").read_text())["runs"][0]["frames_per_second"])

    benchmark.pedantic(run, setup=measure_bare, rounds=ROUNDS)
    measure_bare()
    ratios = [rate / statistics.mean(bare[n : n + 2]) for n, rate in enumerate(extracted)]
    rounds = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux counts in kB
    report(
        f"extraction {statistics.median(extracted):6.1f} frames a second, bare forward {statistics.median(bare):6.1f}, "
        f"ratio {statistics.median(ratios):.2f} (rounds {rounds}; floor {FLOOR:.2f}), "
        f"batch {settings.batch_size}, {settings.threads} threads, memory {peak:.2f} GB"
    )
    assert statistics.median(ratios) >= FLOOR
