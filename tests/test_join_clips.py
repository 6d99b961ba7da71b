"""Untrimmed videos joined from trimmed clips; the colour of a frame shows its clip."""

import importlib
import json
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from glimpse_env.datasets import activitynet, hmdb51
from glimpse_env.rules import classes_at
from glimpse_env.sources.splits import source_group

av = pytest.importorskip("av")
join_clips = importlib.import_module("join_clips")

COLOURS = np.array(list(product((50, 110, 170, 230), repeat=3)))
CLASSES = ("jump", "run", "walk")  # walk is background


def write_clip(path, *, colour, frames, size=(320, 240), rate=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.broadcast_to(np.array(colour, np.uint8), (size[1], size[0], 3)).copy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Write clips of three classes: seven films of two clips each, five films to train and two to test.

    Returns:
        the folder, and the colour and the number of frames, five to nine, of each clip.
    """
    root, seen = tmp_path_factory.mktemp("clips"), {}
    (root / "splits").mkdir()
    for name in CLASSES:
        lines = []
        for number in range(14):
            video = f"film{number // 2}_{name}_f_cm_np1_ri_med_{number % 2}"
            seen[f"{name}/{video}"] = COLOURS[len(seen)], 5 + len(seen) % 5
            colour, frames = seen[f"{name}/{video}"]
            size = (160, 120) if number == 3 else (320, 240)
            write_clip(root / "videos" / name / f"{video}.avi", colour=colour, frames=frames, size=size)
            lines.append(f"{video}.avi {1 if number < 10 else 2}\n")
        (root / "splits" / f"{name}_test_split1.txt").write_text("".join(lines))
    return root, seen


def arguments_for(root, out, **changes):
    settings = {"background": ("walk",), "gap_seconds": (0.1, 0.4), "seed": 3} | changes
    return join_clips.Arguments(videos=root / "videos", splits=root / "splits", out=out, **settings)


@pytest.fixture(scope="module")
def joined(clips, tmp_path_factory):
    """Return the folder that was written, and its annotations by video."""
    out = tmp_path_factory.mktemp("joined")
    join_clips.main(arguments_for(clips[0], out))
    return out, read(out)


def read(out):
    return json.loads((out / "annotations.json").read_text())["database"]


def labelled(note):
    return [(clip, frames) for clip, frames in note["made_of"] if not clip.startswith("walk/")]


def clips_shown(path, seen):
    """Return the clip of each frame of a video, by its colour."""
    names, colours = list(seen), np.array([colour for colour, _ in seen.values()])
    shown = []
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            assert (frame.width, frame.height) == (320, 240)
            assert frame.time == pytest.approx(number / 30)
            distances = np.abs(frame.to_ndarray(format="rgb24").mean((0, 1)) - colours).max(1)
            assert distances.min() < 12
            shown.append(names[distances.argmin()])
    return shown


# ---- written files


def test_segments_cover_the_frames_of_their_clips(clips, joined):
    out, notes = joined
    dataset = activitynet(out / "videos", out / "annotations.json")
    assert dataset.class_names == ("jump", "run")
    assert {clip.clip_id for clip in dataset.clips} == set(notes)
    for video in dataset.clips:
        shown = clips_shown(video.path, clips[1])
        assert notes[video.clip_id]["duration"] == pytest.approx(len(shown) / 30)
        labels = classes_at(np.arange(len(shown)) / 30, video.segments, 2)
        assert [row.tolist() for row in labels] == [[name.startswith("jump"), name.startswith("run")] for name in shown]
        assert shown == [clip for clip, frames in notes[video.clip_id]["made_of"] for _ in range(frames)]


def test_every_labelled_clip_is_used_once_and_whole(clips, joined):
    used = Counter(clip for note in joined[1].values() for clip in labelled(note))
    assert used == Counter((name, frames) for name, (_, frames) in clips[1].items() if not name.startswith("walk/"))


def test_a_video_has_two_to_four_clips_and_background_around_each(joined):
    for note in joined[1].values():
        assert 2 <= len(labelled(note)) == len(note["annotations"]) <= 4
        stretches = [0]
        for clip, frames in note["made_of"]:
            if clip.startswith("walk/"):
                stretches[-1] += frames
            else:
                stretches.append(0)
        assert all(3 <= frames <= 12 for frames in stretches)  # 0.1 to 0.4 seconds
    counts = Counter(len(labelled(note)) for note in joined[1].values())
    assert len(counts) > 1
    labels = [{segment["label"] for segment in note["annotations"]} for note in joined[1].values()]
    assert {len(own) for own in labels} == {1, 2}


def test_no_part_holds_a_clip_of_another(clips, joined):
    out, notes = joined
    parts = {clip.clip_id: clip.splits[0] for clip in hmdb51(clips[0] / "videos", clips[0] / "splits").clips}
    videos = activitynet(out / "videos", out / "annotations.json").clips
    assert {video.splits[0] for video in videos} == {"train", "validation", "test"}
    sources = {"train": set(), "validation": set(), "test": set()}
    for video in videos:
        part = video.splits[0]
        assert {parts[clip] for clip, _ in notes[video.clip_id]["made_of"]} == {part}
        assert notes[video.clip_id]["subset"] == ("validation" if part == "test" else "training")
        for clip, _ in notes[video.clip_id]["made_of"]:
            name, _, own = clip.partition("/")
            sources[part].add((name, source_group(own, class_name=name)))
    assert not sources["train"] & sources["validation"]


def test_the_seed_decides(clips, joined, tmp_path):
    out, notes = joined
    for name, seed in (("same", 3), ("other", 4)):
        join_clips.main(arguments_for(clips[0], tmp_path / name, seed=seed))
    assert (tmp_path / "same" / "annotations.json").read_bytes() == (out / "annotations.json").read_bytes()
    for video in notes:
        path = Path("videos") / f"v_{video}.mp4"
        assert clips_shown(tmp_path / "same" / path, clips[1]) == clips_shown(out / path, clips[1])
    assert not set(notes) & set(read(tmp_path / "other"))


def test_a_limit_takes_the_first_of_each_part(clips, joined, tmp_path):
    join_clips.main(arguments_for(clips[0], tmp_path, limit=1))
    few = read(tmp_path)
    assert len(few) == 3
    assert few.items() <= joined[1].items()
    assert len(list((tmp_path / "videos").iterdir())) == 3


def test_finished_videos_are_kept(clips, joined, tmp_path):
    join_clips.main(arguments_for(clips[0], tmp_path, limit=1))
    gone, *kept = sorted((tmp_path / "videos").iterdir())
    shown, before = clips_shown(gone, clips[1]), [path.stat().st_mtime_ns for path in kept]
    gone.unlink()
    (tmp_path / "annotations.json").unlink()
    join_clips.main(arguments_for(clips[0], tmp_path, limit=1))
    assert clips_shown(gone, clips[1]) == shown
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert read(tmp_path).items() <= joined[1].items()


def test_an_interrupted_video_leaves_no_file(clips, tmp_path, monkeypatch):
    def stop_early(piece):
        yield from list(join_clips.av.open(str(piece.clip.path)).decode(video=0))[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(join_clips, "frames_of", stop_early)
    with pytest.raises(KeyboardInterrupt):
        join_clips.main(arguments_for(clips[0], tmp_path, limit=1))
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize("left", range(2, 12))
def test_no_clip_remains_single(left):
    rng = np.random.default_rng(left)
    for _ in range(50):
        remaining, counts = left, []
        while remaining:
            counts.append(join_clips._count_of_clips(remaining, rng))
            remaining -= counts[-1]
        assert sum(counts) == left
        assert all(2 <= count <= 4 for count in counts)


# ---- refused arguments


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"background": ("swim",)}, r"no classes \['swim'\] in .* there are jump, run, walk"),
        ({"background": ()}, "the train part has no clips of"),
        ({"fold": 2}, r"fold must lie in 1\.\.1, got 2"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"gap_seconds": (0.4, 0.1)}, r"gap_seconds must be rising, .* got \(0\.4, 0\.1\)"),
        ({"gap_seconds": (0.0, 0.1)}, "at least one frame"),
    ],
)
def test_arguments_that_cannot_be_joined_are_refused(clips, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        join_clips.main(arguments_for(clips[0], tmp_path, **changes))
    assert list(tmp_path.iterdir()) == []


def test_clips_of_another_rate_and_broken_ones_are_refused(tmp_path):
    write_clip(tmp_path / "slow.avi", colour=(50, 50, 50), frames=4, rate=25)
    with pytest.raises(ValueError, match=r"slow\.avi has 4 frames at 25 per second: clips need 30"):
        join_clips.count_frames(tmp_path / "slow.avi")
    (tmp_path / "broken.avi").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"broken\.avi cannot be read .* repair it, or remove it"):
        join_clips.count_frames(tmp_path / "broken.avi")
