"""Sources and configurations small enough to train on in a test."""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch
from glimpse_agents.learning.config import Config
from glimpse_agents.runs.folder import RunFolder

from glimpse_env import ArraySource, Segment
from glimpse_env.datasets import VideoClip
from glimpse_env.store.manifest import Manifest
from glimpse_env.store.writer import ClipArrays, StoreWriter

torch.set_num_threads(1)  # networks this small lose time to a second thread

TINY_NETWORK = {"embedding_size": 6, "hidden_size": 8, "scorer_size": 5, "projection_size": 4}


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched(ArraySource):
    """A source that counts the clips that are read, and that fails like a disk after `limit` clips."""

    limit: float = float("inf")
    count: list = field(default_factory=list)

    def read_cubes(self, clips, frames, out):
        self.count.append(len(clips))
        if sum(self.count) > self.limit:
            raise OSError("the disk is gone")
        super().read_cubes(clips, frames, out)

    def read_slices(self, clips, frames, cells, out):
        self.count.append(len(clips))
        super().read_slices(clips, frames, cells, out)


def tiny_config(**settings):
    """Return a configuration that trains in a second or two, with some settings changed by their names alone."""
    tiny = TINY_NETWORK | {
        "glimpses": 2, "updates": 6, "warmup_share": 1 / 3, "clips": 3, "rollouts": 2, "validate_every": 2,
        "learning_rate": 1e-2, "checkpoint_seconds": 0.0, "reward": "eq7",
    }  # fmt: skip
    return Config().with_settings(tiny | settings)


def marked_source(clips, *, frames=4, classes=3, seed=0, kind=ArraySource, **fields):
    """Return clips of a 3 x 3 grid in which one marked cell shows the class, and the others mislead.

    Channel 0 marks the actor's cell, which does not move. The other channels are the classes: from frame 2 on the
    actor's cell shows the class of the clip, and every other cell shows a random class, drawn for each frame. So frame
    1 shows the place to look at, and only a look there shows the class.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(clips) % classes
    places = rng.integers(0, 9, clips)
    shown = rng.integers(0, classes, (clips, frames, 9))
    shown[np.arange(clips), :, places] = labels[:, None]
    features = np.zeros((clips, frames, 9, 1 + classes), np.float32)
    features[:, 1:, :, 1:] = np.eye(classes)[shown[:, 1:]]
    features[np.arange(clips), :, places, 0] = 1
    features += rng.uniform(0, 0.1, features.shape).astype(np.float32)
    actors = np.zeros((clips, frames, 9), np.bool_)
    actors[np.arange(clips), :, places] = True
    return kind(
        features=features.reshape(clips, frames, 3, 3, -1),
        labels=labels,
        class_names=tuple("class" + "abcdefgh"[label] for label in range(classes)),
        frames_per_second=10.0,
        actors=actors.reshape(clips, frames, 3, 3),
        **fields,
    )


def marked_splits(clips=12, **fields):
    """Return the three splits that training needs."""
    return {
        name: marked_source(clips, seed=seed, **fields) for seed, name in enumerate(("train", "validation", "test"))
    }


def write_marked_store(path, **fields):
    """Write a feature store of 24 marked clips: 12 train, 6 validate, 6 test; `fields` change its manifest.

    Untrimmed clips have one event, of two frames.
    """
    source, is_trimmed = marked_source(24), fields.get("trimmed", True)
    parts = ["train", "validation", "train", "test"]
    clips = [
        VideoClip(
            clip_id=source.clip_id(clip),
            path=path,
            label=int(source.labels[clip]) if is_trimmed else -1,
            segments=() if is_trimmed else (Segment(0.05, 0.25, int(source.labels[clip])),),
            splits=(parts[clip // 3 % 4],) * fields.get("num_folds", 1),
        )
        for clip in range(24)
    ]
    manifest = Manifest(
        dataset="marked", class_names=source.class_names, num_folds=1, clips_sha256="0" * 64, trimmed=True,
        backbone="none", weights_sha256="1" * 64, resize_rule="none", decoder="none", software="none", device="cpu",
        threads=1, batch_size=1, frames_per_second=10.0, num_frames=4, max_frames=4, grid_size=3, depth=4,
        dtype="float16", has_coverage=True, clips_per_shard=24, num_shards=1,
    )  # fmt: skip
    writer = StoreWriter(path, dataclasses.replace(manifest, **fields), clips)
    arrays = [
        ClipArrays(
            clip_id=source.clip_id(clip),
            start=0.0,
            features=source.features[clip].astype(np.float16),
            thumbnails=np.full((4, 112, 112, 3), 10 * clip, np.uint8),
            coverage=source.actors[clip].astype(np.uint8) * 255,
        )
        for clip in range(24)
    ]
    writer.write_shard(0, arrays, {})
    writer.finish()
    return path


def metrics_of(path):
    """Return the logged scalars of a run, without the times."""
    return [
        {name: value for name, value in line.items() if not name.startswith("time/")}
        for line in RunFolder(path).metrics()
    ]


def plain(value):
    """Return nested tensors as nested lists, which compare exactly."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return value.tolist() if isinstance(value, torch.Tensor) else value


def assert_same_run(one, two):
    """Check that the runs in two folders have the same weights, bit for bit, and the same log apart from the times."""
    ours, theirs = RunFolder(one), RunFolder(two)
    assert plain(ours.load_best()) == plain(theirs.load_best())
    assert metrics_of(one) == metrics_of(two)
    assert plain(ours.load_last() | {"seconds": 0}) == plain(theirs.load_last() | {"seconds": 0})
