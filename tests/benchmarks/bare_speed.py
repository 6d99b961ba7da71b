"""Speed of the two halves of extraction alone: frames that the decoders and that the network manage in a second.

    python tests/benchmarks/bare_speed.py folder --videos DIR --weights FILE --out UNUSED --device cuda --batch-size 256

It takes the flags of glimpse_env.extract, and writes nothing.
"""

from __future__ import annotations

import time

import torch

from glimpse_env.extract.__main__ import parse_arguments
from glimpse_env.extract.settings import Settings
from glimpse_env.extract.shards import load_network, make_decoders
from glimpse_env.video.backbones import Backbone
from glimpse_env.video.decode import VideoError


def network_rate(backbone: Backbone, batch_size: int, batches: int) -> float:
    """Return frames a second of the network alone, on pictures that are on its device."""

    def waited() -> float:
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)
        return time.perf_counter()

    frames = torch.randint(256, (batch_size, 224, 224, 3), dtype=torch.uint8)
    pictures = backbone.normalise(frames.to(backbone.device))
    with torch.inference_mode():
        backbone.network(pictures)
        begun = waited()
        for _ in range(batches):
            backbone.network(pictures)
        return batches * batch_size / (waited() - begun)


def decoding_rate(settings: Settings) -> float:
    """Return frames a second of the decoders alone, resizing included."""
    paths = [clip.path for clip in settings.dataset().clips]
    with make_decoders(settings) as decoders:
        next(decoders.decode(paths[:1]))  # the first process has started
        begun = time.perf_counter()
        decoded = [0 if isinstance(clip, VideoError) else len(clip.times) for clip in decoders.decode(paths)]
        return sum(decoded) / (time.perf_counter() - begun)


if __name__ == "__main__":
    settings = parse_arguments()
    backbone = load_network(settings)
    batches = max(3, 3200 // settings.batch_size) if backbone.device.type == "cuda" else 3
    print(f"bare forward: {network_rate(backbone, settings.batch_size, batches):.1f} frames a second")
    print(f"bare decode: {decoding_rate(settings):.1f} frames a second")
