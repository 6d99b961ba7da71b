"""GoogLeNet on one CPU thread in other engines than PyTorch: speed, and distance of the features.

    pip install openvino onnx onnxruntime
    VIDEOGLIMPSE_DATA=DIR pytest tests/benchmarks/test_engines.py --benchmark-only

Engines that are not installed are left out. All see the same batch of sixteen real frames, in turns.
"""

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from glimpse_env.video.backbones import keep_freed_memory, load_backbone
from glimpse_env.video.decode import decode_clip

DATA = Path(os.environ.get("VIDEOGLIMPSE_DATA", "/nonexistent"))
TURNS = 12
NEEDED = 1.3  # smallest speed-up over PyTorch that is worth another engine


def compiled(network, pictures):
    fast = torch.compile(network)
    return lambda: fast(pictures).numpy()


def in_openvino(network, pictures):
    openvino = pytest.importorskip("openvino")
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(openvino.convert_model(network, example_input=pictures), "CPU", settings)
    return lambda: model(pictures.numpy())[0]


def in_onnxruntime(network, pictures):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    file, options = io.BytesIO(), onnxruntime.SessionOptions()
    torch.onnx.export(network, (pictures,), file, dynamo=False, input_names=["pictures"])
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"pictures": pictures.numpy()})[0]


@pytest.mark.skipif(not DATA.is_dir(), reason="VIDEOGLIMPSE_DATA does not point at the real data")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", [compiled, in_openvino, in_onnxruntime], ids=lambda one: one.__name__)
def test_frames_per_second(benchmark, report, engine):
    torch.set_num_threads(1)
    keep_freed_memory()
    backbone = load_backbone("bvlc_googlenet", weights=DATA / "weights" / "bvlc_googlenet.safetensors")
    videos = sorted((DATA / "jhmdb" / "videos").glob("*/*.avi"))[::60][:16]
    frames = np.concatenate([decode_clip(video, frames_per_second=30, max_frames=1).frames for video in videos])
    pictures = backbone.normalise(torch.from_numpy(frames)).contiguous()
    seconds = []

    def measure():
        with torch.inference_mode():
            runs = [lambda: backbone.network(pictures).numpy(), engine(backbone.network, pictures)]
            reference, features = (run() for run in runs)
            assert np.abs(features - reference).max() <= 1e-3 * np.abs(reference).max()
            for _ in range(TURNS):
                for run in runs:
                    start = time.perf_counter()
                    run()
                    seconds.append(time.perf_counter() - start)

    benchmark.pedantic(measure, rounds=1)
    plain, fast = np.median(np.reshape(seconds, (TURNS, 2)), axis=0)
    rate, ratio = len(frames) / fast, plain / fast
    report(f"{engine.__name__:14} {rate:5.1f} frames per second, {ratio:.2f} times as fast as PyTorch; {NEEDED} needed")
