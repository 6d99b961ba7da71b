"""Damaged and odd videos of five formats: a complete report, and neither a crash nor a hang."""

import json
from dataclasses import replace

import numpy as np
import pytest
from extraction_inputs import contents, turn_video, write_video

from glimpse_env.extract import Folder, extract
from glimpse_env.store import FeatureStore

FRAMES = 12
FORMATS = [("mp4", "libx264"), ("avi", "mpeg4"), ("mkv", "libx264"), ("webm", "libvpx-vp9"), ("mpg", "mpeg1video")]
READABLE = ("one frame", "odd size", "turned", "uneven")
UNREADABLE = ("empty", "text", "header alone")
UNCERTAIN = ("cut", "bits flipped", "bytes flipped", "middle gone", "zeros inside")
KINDS = READABLE + UNREADABLE + UNCERTAIN


def write_kind(kind, path, codec, generator):
    """Write a video that is whole but unusual, or damage one."""
    if kind == "one frame":
        return write_video(path, frames=1, codec=codec)
    if kind == "odd size":
        width, height = (2 * generator.integers(9, 200, 2) + 1).tolist()
        return write_video(path, frames=FRAMES, codec=codec, size=(width, height))
    if kind == "uneven" and path.suffix in (".mp4", ".mkv"):
        timestamps = np.cumsum(generator.integers(10, 90, FRAMES)).tolist()
        return write_video(path, frames=FRAMES, codec=codec, timestamps=timestamps)
    write_video(path, frames=FRAMES, codec=codec)
    if kind == "turned" and path.suffix == ".mp4":
        return turn_video(path, int(generator.choice([90, 180, 270])))
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    size = len(content)
    if kind == "empty":
        content = content[:0]
    if kind == "text":
        content = np.frombuffer(b"this is no video\n" * 50, np.uint8)
    if kind == "header alone":
        content = content[:30]
    if kind == "cut":
        content = content[: generator.integers(40, size)]
    if kind == "bits flipped":
        content[generator.integers(0, size, max(1, size // 200))] ^= np.uint8(1 << generator.integers(8))
    if kind == "bytes flipped":
        content[generator.integers(0, size, max(1, size // 50))] = generator.integers(256)
    if kind == "middle gone":
        content = np.delete(content, slice(size // 3, size // 2))
    if kind == "zeros inside":
        content[size // 2 : size // 2 + size // 10] = 0
    return path.write_bytes(content.tobytes())


@pytest.mark.slow
@pytest.mark.ci
def test_damaged_videos_leave_a_complete_report(tmp_path, weights):
    generator = np.random.default_rng(4)
    kinds = {}
    for number in range(len(KINDS) * len(FORMATS)):
        kind = KINDS[number % len(KINDS)]
        suffix, codec = FORMATS[number // len(KINDS) % len(FORMATS)]
        path = tmp_path / "videos" / f"class{number % 3}" / f"{number:03d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_kind(kind, path, codec, generator)
        kinds[f"{path.parent.name}/{path.name}"] = kind
    settings = Folder(
        videos=tmp_path / "videos", out=tmp_path / "store", weights=weights, frames=2, fps=10.0, threads=1,
        seconds_per_video=20.0,
    )  # fmt: skip
    store = FeatureStore.open(extract(settings))
    assert len(list(store.verify())) == len(store.files)
    read = set(store.index["clip_ids"].tolist())
    failures = json.loads((tmp_path / "store" / "report.json").read_text())["failures"]
    assert read | failures.keys() == kinds.keys()
    assert not read & failures.keys()
    assert all(reason.strip() and "\n" not in reason for reason in failures.values())
    outcomes = {kind: {clip in read for clip, own in kinds.items() if own == kind} for kind in KINDS}
    assert {kind: outcomes[kind] for kind in READABLE} == {kind: {True} for kind in READABLE}
    assert {kind: outcomes[kind] for kind in UNREADABLE} == {kind: {False} for kind in UNREADABLE}
    extract(replace(settings, out=tmp_path / "again"))
    assert contents(tmp_path / "again") == contents(tmp_path / "store")
    print(f"read {len(read)} of {len(kinds)}; {sorted(set(failures.values()))}")
