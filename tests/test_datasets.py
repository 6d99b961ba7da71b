"""What data sets' folders and annotation files say, and what is wrong with them."""

import os
from collections import Counter
from pathlib import Path

import pytest

from glimpse_env.datasets import DatasetError, folder, hmdb51, read_hmdb_splits

DATA = Path(os.environ.get("VIDEOGLIMPSE_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="VIDEOGLIMPSE_DATA does not point at the real data")


def write_splits(path, **classes):
    """Write, for each class, one split file per fold from {video: tags}, one tag for each fold."""
    path.mkdir(exist_ok=True)
    for name, tags in classes.items():
        for fold in range(len(next(iter(tags.values())))):
            lines = [f"{video} {own[fold]} \n" for video, own in tags.items()]
            (path / f"{name}_test_split{fold + 1}.txt").write_text("".join(lines))
    return path


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@needs_data
def test_official_hmdb51_split_files_hold_their_counts():
    tags = read_hmdb_splits(DATA / "hmdb51" / "splits")
    assert len(tags) == 51
    for fold in range(3):
        counts = Counter(own[fold] for videos in tags.values() for own in videos.values())
        assert counts == {1: 3570, 2: 1530, 0: 1666}


@needs_data
def test_jhmdb_is_read_with_all_its_folds():
    dataset = hmdb51(DATA / "jhmdb" / "videos", DATA / "jhmdb" / "splits")
    assert (len(dataset.clips), len(dataset.class_names), dataset.num_folds) == (928, 21, 3)
    for fold, (train, test) in enumerate([(660, 268), (658, 270), (663, 265)]):
        counts = Counter(clip.splits[fold] for clip in dataset.clips)
        assert counts["train"] + counts["validation"] == train
        assert counts["test"] == test
        assert 0.10 * train < counts["validation"] < 0.20 * train


def test_hmdb51_keeps_all_folds_and_leaves_out_what_none_uses(tmp_path):
    cuts = [f"film{film}_walk_f_cm_np1_ri_med_{cut}.avi" for film in (1, 2) for cut in (0, 1)]
    splits = write_splits(
        tmp_path / "splits", walk=dict.fromkeys(cuts, (1, 2)) | {"spare.avi": (0, 0)}, run={"my run.avi": (2, 0)}
    )
    for name in cuts:
        touch(tmp_path / "videos" / "walk" / name)
    touch(tmp_path / "videos" / "run" / "my run.avi")
    dataset = hmdb51(tmp_path / "videos", splits)
    assert dataset.class_names == ("run", "walk")
    by_id = {clip.clip_id: clip for clip in dataset.clips}
    assert list(by_id) == ["run/my run", *sorted(f"walk/{name[:-4]}" for name in cuts)]
    assert by_id["run/my run"].splits == ("test", None)
    assert by_id["run/my run"].path == tmp_path / "videos" / "run" / "my run.avi"
    walks = [by_id[f"walk/{name[:-4]}"] for name in cuts]
    assert Counter(clip.splits for clip in walks) == {("train", "test"): 2, ("validation", "test"): 2}
    assert walks[0].splits == walks[1].splits  # cut from the same film
    assert {clip.label for clip in walks} == {1}


def test_missing_videos_are_counted_and_the_first_ones_listed(tmp_path):
    splits = write_splits(tmp_path / "splits", walk={f"{number:02d}.avi": (1,) for number in range(13)})
    touch(tmp_path / "videos" / "walk" / "00.avi")
    with pytest.raises(DatasetError, match=r"12 videos named by .*splits not found .*: walk.01\.avi, .* and 2 more$"):
        hmdb51(tmp_path / "videos", splits)


@pytest.mark.parametrize("name", ["../secret.avi", "/etc/passwd", "..\\x.avi", "a\0.avi", ".."])
def test_names_that_reach_out_of_the_folder_are_refused(tmp_path, name):
    splits = write_splits(tmp_path, walk={name: (1,)})
    with pytest.raises(DatasetError, match=r"walk_test_split1\.txt, line 1: .* is not a plain file name"):
        read_hmdb_splits(splits)


@pytest.mark.parametrize("line", ["a.avi", "a.avi 3", "a.avi one", " 1"])
def test_lines_that_cannot_be_read_are_pointed_at(tmp_path, line):
    (tmp_path / "walk_test_split1.txt").write_text(f"\nb.avi 1\n{line}\n")
    with pytest.raises(DatasetError, match=r"walk_test_split1\.txt, line 3: expected a file name and 0, 1 or 2"):
        read_hmdb_splits(tmp_path)


def test_no_split_files(tmp_path):
    with pytest.raises(DatasetError, match=r"no split files in .*: they are named as in"):
        read_hmdb_splits(tmp_path)


def test_split_files_without_videos(tmp_path):
    (tmp_path / "walk_test_split1.txt").write_text("\n")
    with pytest.raises(DatasetError, match="the split files of 'walk' name no videos"):
        read_hmdb_splits(tmp_path)


def test_split_files_that_use_no_video(tmp_path):
    with pytest.raises(DatasetError, match=r"the split files in .* use no videos"):
        hmdb51(tmp_path, write_splits(tmp_path / "splits", walk={"a.avi": (0,)}))


def test_folds_that_differ(tmp_path):
    write_splits(tmp_path, walk={"a.avi": (1, 2)})
    (tmp_path / "walk_test_split2.txt").write_text("b.avi 1\n")
    with pytest.raises(DatasetError, match=r"'walk': folds 1 and 2 differ in a\.avi, b\.avi"):
        read_hmdb_splits(tmp_path)


def test_a_fold_that_one_class_lacks(tmp_path):
    write_splits(tmp_path, walk={"a.avi": (1, 2)}, run={"b.avi": (1,)})
    with pytest.raises(DatasetError, match=r"of folds 1, 2, \.\.\. for every class: see \['run'\]"):
        read_hmdb_splits(tmp_path)


def test_folder_takes_a_class_from_each_folder(tmp_path):
    for name in (
        "walk/a.mp4",
        "walk/b.MP4",
        "walk/c.webm",
        "run/a.avi",
        "run/notes.txt",
        "run/.hidden.mp4",
        ".cache/a.mp4",
        "stray.mp4",
    ):
        touch(tmp_path / name)
    dataset = folder(tmp_path)
    assert dataset.class_names == ("run", "walk")
    assert [clip.clip_id for clip in dataset.clips] == ["run/a.avi", "walk/a.mp4", "walk/b.MP4", "walk/c.webm"]
    assert [clip.label for clip in dataset.clips] == [0, 1, 1, 1]
    assert dataset.clips[0].splits == ("train",)
    assert {clip.splits[0] for clip in dataset.clips[1:]} == {"train", "validation", "test"}
    assert folder(tmp_path) == dataset


def test_folder_without_videos(tmp_path):
    with pytest.raises(DatasetError, match=r"no videos in .*: it should hold a folder per class"):
        folder(tmp_path)
    with pytest.raises(DatasetError, match=r"no folder of videos at .*none"):
        folder(tmp_path / "none")
