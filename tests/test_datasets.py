"""Folders and annotation files of data sets, and their faults."""

import functools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from extraction_inputs import write_activitynet

from glimpse_env import datasets
from glimpse_env.datasets import DatasetError, folder, read_activitynet, read_hmdb_splits
from glimpse_env.datasets.description import group_of_clip

activitynet, hmdb51, ucf101 = (
    functools.partial(read, strict=True) for read in (datasets.activitynet, datasets.hmdb51, datasets.ucf101)
)

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


def test_hmdb51_keeps_all_folds_and_leaves_out_videos_of_no_fold(tmp_path):
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


OUTSIDE = ["../secret.avi", "/etc/passwd", "..\\x.avi", "a\0.avi", "..", ".", "C:x.avi", "\\\\host\\x", "a/../../x"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_reach_out_of_the_folder_are_refused(tmp_path, name):
    splits = write_splits(tmp_path, walk={name: (1,)})
    with pytest.raises(DatasetError, match=r"walk_test_split1\.txt, line 1: .* is not a plain file name"):
        read_hmdb_splits(splits)


@pytest.mark.parametrize("name", ["..", ".", "..\\x", "C:"])
@pytest.mark.skipif(os.name == "nt", reason="Windows has no files of these names")
def test_split_files_whose_class_reaches_out_of_the_folder_are_refused(tmp_path, name):
    splits = write_splits(tmp_path, **{name: {"a.avi": (1,)}})
    with pytest.raises(DatasetError, match=r"_test_split1\.txt: .* is not a plain file name"):
        read_hmdb_splits(splits)


@pytest.mark.parametrize("name", ["\0", *OUTSIDE, ""])
def test_ucf101_names_that_reach_out_of_the_folder_are_refused(tmp_path, name):
    lists = write_ucf(tmp_path / "lists")
    (lists / "testlist01.txt").write_text(f"Archery/{name}\n")
    with pytest.raises(DatasetError, match=r"testlist01\.txt, line 1: .* is not a plain file name"):
        ucf101(tmp_path / "videos", lists)
    (lists / "classInd.txt").write_text(f"1 {name or '..'}\n")
    with pytest.raises(DatasetError, match=r"classInd\.txt, line 1: .* is not a plain file name"):
        ucf101(tmp_path / "videos", lists)


@pytest.mark.parametrize("name", [*OUTSIDE, "", "../x", "/etc/x", "a\0b"])
def test_activitynet_ids_that_reach_out_of_the_folder_are_refused(tmp_path, name):
    touch(tmp_path / "x.mp4")
    notes = write_activitynet(tmp_path / "notes.json", **{name: {"subset": "testing"}})
    with pytest.raises(DatasetError, match=r"notes\.json: .* is not a plain file name"):
        activitynet(tmp_path / "videos", notes)


def test_hmdb51_files_that_differ_in_their_suffix_alone_are_refused(tmp_path):
    splits = write_splits(tmp_path / "splits", walk={"a.avi": (1,), "a.mp4": (2,), "b.avi": (1,), "b.mp4": (0,)})
    with pytest.raises(DatasetError, match=r"the split files in .*splits name several files called walk/a$"):
        hmdb51(tmp_path, splits)


def test_a_video_that_a_split_file_names_twice_is_refused(tmp_path):
    (tmp_path / "walk_test_split1.txt").write_text("a.avi 1\nb.avi 1\na.avi 2\n")
    with pytest.raises(DatasetError, match=r"walk_test_split1\.txt, line 3: 'a\.avi' is named before"):
        read_hmdb_splits(tmp_path)


def test_lists_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "walk_test_split1.txt").write_bytes("Schläge.avi 1\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"walk_test_split1\.txt is not a text in UTF-8 \(.*byte 0xe4 in position 4"):
        read_hmdb_splits(tmp_path)
    lists = write_ucf(tmp_path / "lists")
    (lists / "testlist02.txt").write_bytes(b"Archery/\xff.avi\n")
    with pytest.raises(DatasetError, match=r"testlist02\.txt is not a text in UTF-8"):
        ucf101(tmp_path / "videos", lists)
    (tmp_path / "notes.json").write_bytes(b'{"database": {"\xff": {}}}')
    with pytest.raises(DatasetError, match=r"notes\.json is not as ActivityNet's annotations are \(UnicodeDecodeError"):
        read_activitynet(tmp_path / "notes.json")


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
    with pytest.raises(DatasetError, match=r"the split files of 'walk' in .* name no videos"):
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
    with pytest.raises(DatasetError, match=r"lack a fold of the classes run$"):
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


# ---- UCF-101


def write_ucf(path, *, classes="1 Archery\n2 Bowling\n", folds=2):
    """Write the lists of clips of four groups of two cuts for each class: group 4 tests fold 1, group 3 fold 2."""
    path.mkdir(exist_ok=True)
    (path / "classInd.txt").write_text(classes)
    for fold in range(1, folds + 1):
        train, test = [], []
        for number, name in enumerate(("Archery", "Bowling"), start=1):
            for group in (1, 2, 3, 4):
                for cut in (1, 2):
                    clip = f"{name}/v_{name}_g{group:02d}_c{cut:02d}.avi"
                    touch(path.parent / "videos" / clip)
                    if group == 5 - fold:
                        test.append(f"{clip}\n")
                    else:
                        train.append(f"{clip} {number}\n")
        (path / f"trainlist{fold:02d}.txt").write_text("".join(train))
        (path / f"testlist{fold:02d}.txt").write_text("".join(test))
    return path


def test_ucf101_keeps_all_folds_and_groups_together(tmp_path):
    dataset = ucf101(tmp_path / "videos", write_ucf(tmp_path / "lists"))
    assert (dataset.name, dataset.class_names, dataset.num_folds) == ("ucf101", ("Archery", "Bowling"), 2)
    assert len(dataset.clips) == 16
    first = dataset.clips[0]
    assert (first.clip_id, first.label) == ("Archery/v_Archery_g01_c01", 0)
    assert first.path == tmp_path / "videos" / "Archery" / "v_Archery_g01_c01.avi"
    for fold in (0, 1):
        parts = {clip.clip_id: clip.splits[fold] for clip in dataset.clips}
        assert Counter(parts.values()) == {"test": 4, "validation": 4, "train": 8}
        assert {clip for clip, part in parts.items() if part == "test"} == {
            f"{name}/v_{name}_g0{4 - fold}_c0{cut}" for name in dataset.class_names for cut in (1, 2)
        }
        for clip, part in parts.items():
            assert parts[clip[:-1] + "1"] == part


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classInd.txt", "one Archery", r"classInd\.txt, line 1: expected a number and a class, got 'one Archery'"),
        ("classInd.txt", "1 Archery\n3 Bowling", r"classInd\.txt: the classes should be numbered 1, 2"),
        ("classInd.txt", " \n", r"classInd\.txt is empty"),
        ("trainlist01.txt", "Chess/a.avi 1", r"trainlist01\.txt, line 1: expected a video in the folder of a known"),
        ("trainlist01.txt", "Archery/../a.avi 1", r"trainlist01\.txt, line 1: '\.\./a\.avi' is not a plain file name"),
        ("classInd.txt", "1 ..", r"classInd\.txt, line 1: '\.\.' is not a plain file name"),
        ("classInd.txt", "1 Archery\n1 Bowling", r"classInd\.txt, line 2: class 1 is named before, as 'Archery'"),
        ("trainlist01.txt", "Archery/a.avi 2", r"trainlist01\.txt, line 1: Archery is not class 2 of classInd\.txt"),
        ("trainlist01.txt", "Archery/v_Archery_g01_c01.mp4 1", "name several files called Archery/v_Archery_g01_c01"),
        ("testlist02.txt", "Archery/v_Archery_g01_c01.avi", r"fold 2: Archery/v_Archery_g01_c01\.avi is in both lists"),
        ("testlist01.txt", "Archery/gone.avi", r"1 video named by the lists in .* not found .*: Archery/gone\.avi"),
    ],
)
def test_ucf101_lists_that_cannot_be_right(tmp_path, name, text, message):
    lists = write_ucf(tmp_path / "lists")
    (lists / name).write_text(text)
    with pytest.raises(DatasetError, match=message):
        ucf101(tmp_path / "videos", lists)


def test_ucf101_lists_that_are_not_there(tmp_path):
    with pytest.raises(DatasetError, match=r"no list at .*classInd\.txt: UCF-101's split archive has it"):
        ucf101(tmp_path, tmp_path)
    lists = write_ucf(tmp_path / "lists")
    (lists / "trainlist01.txt").unlink()
    with pytest.raises(DatasetError, match=r"no lists of folds 1, 2, \.\.\. in "):
        ucf101(tmp_path / "videos", lists)


# ---- ActivityNet


@needs_data
def test_official_activitynet_annotations_hold_their_counts():
    class_names, notes = read_activitynet(DATA / "activitynet" / "activity_net.v1-3.json")
    assert len(class_names) == 200
    assert Counter(note.subset for note in notes.values()) == {"training": 9649, "validation": 4728, "testing": 4851}
    segments = [segment for note in notes.values() for segment in note.segments]
    assert sum(start == end for start, end, _ in segments) == 12
    assert sum(len({label for *_, label in note.segments}) > 1 for note in notes.values()) == 11
    assert all(bool(note.segments) == (note.subset != "testing") for note in notes.values())


def test_activitynet_takes_the_videos_that_are_there(tmp_path):
    for name in (
        "v_aaaaaaaaaaa.mp4",
        "sub/bbbbbbbbbbb.mkv",
        "v_ddddddddddd.webm",
        "v_eeeeeeeeeee.mp4",
        "v_bbbbbbbbbbb.txt",
    ):
        touch(tmp_path / "videos" / name)
    dataset = activitynet(tmp_path / "videos", write_activitynet(tmp_path / "notes.json"))
    assert (dataset.trimmed, dataset.num_folds, dataset.class_names) == (False, 1, ("Run", "Walk"))
    assert dataset.missing == ("ccccccccccc",)
    first, second, third = dataset.clips
    assert (first.clip_id, first.label, first.segments) == ("aaaaaaaaaaa", -1, ((1.0, 4.0, 1), (5.0, 12.5, 0)))
    assert second.path == tmp_path / "videos" / "sub" / "bbbbbbbbbbb.mkv"
    assert second.segments == ((2.0, 2.0, 0),)
    assert {first.splits, second.splits} <= {("train",), ("validation",)}
    assert third.splits == ("test",)


def test_activitynet_follows_links_to_folders_and_not_in_circles(tmp_path):
    touch(tmp_path / "disk" / "v_aaaaaaaaaaa.mp4")
    touch(tmp_path / "videos" / "sub" / "bbbbbbbbbbb.mkv")
    for link, target in [("more", tmp_path / "disk"), ("again", tmp_path / "disk"), ("sub/up", tmp_path / "videos")]:
        try:
            (tmp_path / "videos" / link).symlink_to(target, target_is_directory=True)
        except OSError:
            pytest.skip("this system lets nobody make links")
    dataset = activitynet(tmp_path / "videos", write_activitynet(tmp_path / "notes.json"))
    assert [clip.path.relative_to(tmp_path / "videos").as_posix() for clip in dataset.clips] == [
        "again/v_aaaaaaaaaaa.mp4",
        "sub/bbbbbbbbbbb.mkv",
    ]


def test_activitynet_parts_do_not_depend_on_which_videos_are_there(tmp_path):
    notes = write_activitynet(tmp_path / "notes.json")
    seen = {}
    for name in "abc":
        touch(tmp_path / name / f"v_{name * 11}.mp4")
        (seen[name],) = (clip.splits for clip in activitynet(tmp_path / name, notes).clips)
    for name in "abc":
        touch(tmp_path / "all" / f"v_{name * 11}.mp4")
    assert {clip.clip_id[0]: clip.splits for clip in activitynet(tmp_path / "all", notes).clips} == seen
    assert Counter(seen.values()) == {("train",): 2, ("validation",): 1}


def test_videos_that_are_held_out_by_name_validate(tmp_path):
    notes = write_activitynet(tmp_path / "notes.json")
    content = json.loads(notes.read_text())
    parts = {clip.clip_id[0]: clip.splits[0] for clip in all_videos(tmp_path / "videos", notes)}
    held_out = "".join(name for name in "abc" if parts[name] == "train")
    for name in held_out:
        content["database"][name * 11]["held_out"] = True
    notes.write_text(json.dumps(content))
    found = {clip.clip_id[0]: clip.splits[0] for clip in all_videos(tmp_path / "videos", notes)}
    assert found == {name: "validation" if name in held_out else "train" for name in "abc"} | {"d": "test"}


def all_videos(folder, notes):
    for name in "abcd":
        touch(folder / f"v_{name * 11}.mp4")
    return activitynet(folder, notes).clips


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"database": {"x": {"subset": "validation", "held_out": true}}}',
            "video 'x' of the validation part has held_out",
        ),
        (
            '{"database": {"x": {"subset": "training", "held_out": "yes"}}}',
            "held_out 'yes': training videos may say true",
        ),
        ("[]", "is not as ActivityNet's annotations are"),
        ("{", "is not as ActivityNet's annotations are"),
        ('{"database": {}}', "labels no video"),
        ('{"database": {"../x": {"subset": "testing"}}}', r"'\.\./x' is not a plain file name"),
        ('{"database": {"x": {"subset": "spare"}}}', "video 'x' is in the unknown subset 'spare'"),
        (
            '{"database": {"x": {"subset": "training", "annotations": [{"segment": [3, 2], "label": "Run"}]}}}',
            "video 'x' has a segment from 3.0 to 2.0 seconds",
        ),
    ],
)
def test_activitynet_annotations_that_cannot_be_right(tmp_path, text, message):
    (tmp_path / "notes.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        activitynet(tmp_path, tmp_path / "notes.json")


def test_activitynet_without_videos_or_annotations(tmp_path):
    with pytest.raises(DatasetError, match=r"no annotations at .*none\.json"):
        read_activitynet(tmp_path / "none.json")
    with pytest.raises(DatasetError, match=r"none of the 4 videos of .*notes\.json is in "):
        activitynet(tmp_path, write_activitynet(tmp_path / "notes.json"))


def test_a_video_with_two_files(tmp_path):
    for name in ("v_aaaaaaaaaaa.mp4", "aaaaaaaaaaa.mkv"):
        touch(tmp_path / "videos" / name)
    with pytest.raises(DatasetError, match=r"1 videos have several files under .*: aaaaaaaaaaa"):
        activitynet(tmp_path / "videos", write_activitynet(tmp_path / "notes.json"))


# ---- videos that are left out, and named


def test_bad_lines_of_hmdb51_are_named_and_their_videos_skipped(tmp_path):
    splits = write_splits(tmp_path / "splits", walk={f"{name}.avi": (1, 2) for name in "abcd"})
    lines = (splits / "walk_test_split1.txt").read_text().splitlines()
    (splits / "walk_test_split1.txt").write_text("\n".join([lines[0], "b.avi 7", *lines[2:], "../x 1"]))
    for name in "abc":
        touch(tmp_path / "videos" / "walk" / f"{name}.avi")
    dataset = datasets.hmdb51(tmp_path / "videos", splits)
    assert [clip.clip_id for clip in dataset.clips] == ["walk/a", "walk/c"]
    assert dataset.missing == ("walk/d",)
    first, second, third, fourth = dataset.skipped
    assert first.endswith("walk_test_split1.txt, line 2: expected a file name and 0, 1 or 2, got 'b.avi 7'")
    assert "line 5: '../x' is not a plain file name" in second
    assert third == "split files of 'walk': folds 1 and 2 differ in b.avi"
    assert fourth.endswith("not found under " + str(tmp_path / "videos") + ": walk/d.avi")


def test_bad_lines_of_ucf101_are_named_and_their_videos_skipped(tmp_path):
    lists = write_ucf(tmp_path / "lists", folds=1)
    with (lists / "trainlist01.txt").open("a") as file:
        file.write("Chess/a.avi 3\nArchery/v_Archery_g04_c01.avi 1\n")
    dataset = datasets.ucf101(tmp_path / "videos", lists)
    assert len(dataset.clips) == 15
    chess, both = dataset.skipped
    assert "trainlist01.txt, line 13: expected a video in the folder of a known class, got 'Chess/a.avi 3'" in chess
    assert both.endswith("fold 1: Archery/v_Archery_g04_c01.avi is in both lists")


@pytest.mark.parametrize("label", [None, " ", 3])
def test_bad_entries_of_activitynet_are_named_and_their_videos_skipped(tmp_path, label):
    bad = {"subset": "training", "annotations": [{"segment": [1, 2], "label": label}]}
    padded = {"subset": "training", "annotations": [{"segment": [1, 2], "label": "Run "}]}
    notes = write_activitynet(tmp_path / "notes.json", bbbbbbbbbbb=bad, ccccccccccc=padded)
    for name in "abcd":
        touch(tmp_path / "videos" / f"v_{name * 11}.mp4")
    dataset = datasets.activitynet(tmp_path / "videos", notes)
    assert [clip.clip_id[0] for clip in dataset.clips] == ["a", "c", "d"]
    assert dataset.class_names == ("Run", "Walk")
    (note,) = dataset.skipped
    assert f"the entry of 'bbbbbbbbbbb' is skipped (ValueError: video 'bbbbbbbbbbb' has the label {label!r}" in note
    with pytest.raises(DatasetError, match="which names no class"):
        activitynet(tmp_path / "videos", notes)


def test_all_videos_missing_is_an_error_even_if_not_strict(tmp_path):
    splits = write_splits(tmp_path / "splits", walk={"a.avi": (1,)})
    with pytest.raises(DatasetError, match=r"1 video named by .* not found under .*: walk.a\.avi"):
        datasets.hmdb51(tmp_path / "videos", splits)


def test_byte_order_marks_and_double_blanks_are_read_and_notes_of_macos_ignored(tmp_path):
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "walk_test_split1.txt").write_text("a.avi  1\nb.avi\t2\n", encoding="utf-8-sig")
    (splits / "._walk_test_split1.txt").write_bytes(b"\0\5\x16\7")
    assert read_hmdb_splits(splits) == {"walk": {"a.avi": (1,), "b.avi": (2,)}}
    lists = write_ucf(tmp_path / "lists", folds=1)
    for name in ("classInd.txt", "trainlist01.txt"):
        (lists / name).write_text((lists / name).read_text().replace(" ", "  "), encoding="utf-8-sig")
    assert len(ucf101(tmp_path / "videos", lists).clips) == 16
    notes = write_activitynet(tmp_path / "notes.json")
    notes.write_text(notes.read_text(), encoding="utf-8-sig")
    assert len(read_activitynet(notes)[1]) == 6


def test_folds_that_begin_late_are_named(tmp_path):
    (tmp_path / "walk_test_split2.txt").write_text("a.avi 1\n")
    with pytest.raises(DatasetError, match=r"are of folds \[2\]: they should be of 1, 2, \.\.\. without gaps"):
        read_hmdb_splits(tmp_path)


def test_folder_names_the_files_that_it_leaves_out(tmp_path):
    for name in ("walk/a.m2ts", "run/a.vob", "sports/jump/c.mp4", "stray.mp4", "run/notes.txt", "run/Thumbs.db"):
        touch(tmp_path / name)
    dataset = folder(tmp_path)
    assert [clip.clip_id for clip in dataset.clips] == ["run/a.vob", "walk/a.m2ts"]
    (note,) = dataset.skipped
    assert note.startswith(f"3 files in {tmp_path} are left out, since they are not <class>/<name>")
    assert note.endswith(": run/notes.txt, sports/jump/c.mp4, stray.mp4")


# ---- some of the classes, some of the videos


@pytest.mark.parametrize("classes", [("walk",), ("walk", "run"), ("run", "walk", "jump"), ()])
def test_a_choice_of_classes_leaves_clips_in_their_parts(tmp_path, classes):
    names = {f"film{film}_{name}_f_cm_np1_ri_med_0.avi": (1,) for film in range(8) for name in ("walk", "run", "jump")}
    own = {key: {n: tag for n, tag in names.items() if f"_{key}_" in n} for key in ("walk", "run", "jump")}
    splits = write_splits(tmp_path / "splits", **own)
    for key, videos in own.items():
        for name in videos:
            touch(tmp_path / "videos" / key / name)
    whole = {clip.clip_id: clip.splits for clip in hmdb51(tmp_path / "videos", splits).clips}
    dataset = hmdb51(tmp_path / "videos", splits, classes=classes)
    expected = sorted(classes or own)
    assert dataset.class_names == tuple(expected)
    assert {clip.clip_id: clip.splits for clip in dataset.clips} == {
        clip: parts for clip, parts in whole.items() if clip.split("/")[0] in expected
    }
    assert all(dataset.class_names[clip.label] == clip.clip_id.split("/")[0] for clip in dataset.clips)


def test_missing_videos_of_other_classes_do_not_matter(tmp_path):
    splits = write_splits(tmp_path / "splits", walk={"a.avi": (1,)}, run={"b.avi": (1,)})
    touch(tmp_path / "videos" / "walk" / "a.avi")
    assert hmdb51(tmp_path / "videos", splits, classes=["walk"]).missing == ()
    with pytest.raises(DatasetError, match="1 video named by"):
        hmdb51(tmp_path / "videos", splits)


def test_missing_videos_can_be_allowed_in_strict_reading(tmp_path):
    splits = write_splits(tmp_path / "splits", walk={"a.avi": (1,), "b.avi": (2,)})
    touch(tmp_path / "videos" / "walk" / "a.avi")
    dataset = hmdb51(tmp_path / "videos", splits, allow_missing=True)
    assert dataset.missing == ("walk/b",)
    lists = write_ucf(tmp_path / "lists", folds=1)
    (tmp_path / "videos" / "Archery" / "v_Archery_g01_c01.avi").unlink()
    assert ucf101(tmp_path / "videos", lists, allow_missing=True).missing == ("Archery/v_Archery_g01_c01",)
    (lists / "testlist01.txt").write_text("Chess/a.avi\n")
    with pytest.raises(DatasetError, match="expected a video in the folder of a known class"):
        ucf101(tmp_path / "videos", lists, allow_missing=True)


def test_an_unknown_class_is_refused_with_those_most_like_it(tmp_path):
    splits = write_splits(tmp_path / "splits", walk={"a.avi": (1,)}, run={"b.avi": (1,)})
    with pytest.raises(DatasetError, match=r"no class 'Walk' in the split files in .*: choose from walk$"):
        hmdb51(tmp_path, splits, classes=["Walk"])
    lists = write_ucf(tmp_path / "lists", folds=1)
    with pytest.raises(DatasetError, match=r"no class 'x' in the lists in .*: choose from Archery, Bowling$"):
        ucf101(tmp_path / "videos", lists, classes=["x"])


@needs_data
def test_no_film_of_jhmdb_is_in_both_train_and_validation():
    dataset = hmdb51(DATA / "jhmdb" / "videos", DATA / "jhmdb" / "splits")
    for fold, validation in enumerate([101, 112, 115]):
        films = {part: set() for part in ("train", "validation", "test", None)}
        for clip in dataset.clips:
            films[clip.splits[fold]].add(group_of_clip(clip.clip_id))
        assert not films["train"] & films["validation"]
        assert sum(clip.splits[fold] == "validation" for clip in dataset.clips) == validation


@pytest.mark.parametrize(
    ("clip", "group"),
    [
        ("walk/show_walk_f_cm_np1_ri_med_36.avi", "show"),
        ("Archery/v_Archery_g01_c02", "v_Archery_g01"),
        ("walk/001.mp4", "walk/001"),
        ("train/walk/001.mp4", "walk/001"),
        ("walk/version1.5", "walk/version1.5"),
        ("aaaaaaaaaaa", "aaaaaaaaaaa"),
    ],
)
def test_the_source_video_of_a_clip(clip, group):
    assert group_of_clip(clip) == group


# ---- folders of parts, and a CSV file


def parts_of(dataset):
    return {clip.clip_id: clip.splits[0] for clip in dataset.clips}


def test_folders_of_parts_are_the_splits(tmp_path):
    files = ("train/walk/a.mp4", "train/run/a.mp4", "val/walk/a.mp4", "test/run/b.mp4", "extra/walk/c.mp4", "notes.mp4")
    for name in files[:4]:
        touch(tmp_path / name)
    dataset = folder(tmp_path)
    assert parts_of(dataset) == dict(zip(sorted(files[:4]), ["test", "train", "train", "validation"], strict=True))
    assert (dataset.class_names, dataset.skipped) == (("run", "walk"), ())
    assert dataset.split_rule == f"split by {tmp_path}"
    touch(tmp_path / files[4])
    (note,) = folder(tmp_path).skipped
    assert note.startswith(
        f"1 files in {tmp_path} are left out, since they are not <part>/<class>/<name> with the suffix"
    )


def test_without_a_test_folder_val_tests_as_in_kinetics(tmp_path):
    for name in ("val/walk/x.mp4", *(f"train/walk/{name}.mp4" for name in "abcd")):
        touch(tmp_path / name)
    dataset = folder(tmp_path)
    assert Counter(parts_of(dataset).values()) == {"test": 1, "validation": 1, "train": 3}
    assert parts_of(dataset)["val/walk/x.mp4"] == "test"
    assert parts_of(dataset)["train/walk/d.mp4"] == "validation"  # the sha256 of d begins with 18, the smallest
    assert dataset.split_rule == (
        f"split by {tmp_path}; val is test, since there is no test; "
        "validation is 15% of the source videos of each class of train"
    )


def test_classes_can_be_called_train(tmp_path):
    for name in ("train/a.mp4", "bus/a.mp4", "train/more/b.mp4"):
        touch(tmp_path / name)
    dataset = folder(tmp_path)
    assert dataset.class_names == ("bus", "train")
    assert len(dataset.clips) == 2
    assert dataset.split_rule == "split by name: test and validation are 15% each of the source videos of each class"


def test_a_csv_file_is_the_splits(tmp_path):
    for name in ("walk/a.mp4", "walk/b, c.mp4", "run/a.mp4", "run/d.mp4", "run/e.mp4"):
        touch(tmp_path / "videos" / name)
    table = tmp_path / "splits.csv"
    table.write_text(
        'video,split\nwalk/a.mp4, train\n"walk/b, c.mp4",validation\n\n'
        "./run/a.mp4,Train\nrun\\d.mp4,TEST\nrun/x.mp4,val\n"
    )
    dataset = folder(tmp_path / "videos", splits=table)
    assert parts_of(dataset) == {
        "run/a.mp4": "train", "run/d.mp4": "test", "walk/a.mp4": "train", "walk/b, c.mp4": "validation",
    }  # fmt: skip
    assert dataset.missing == ("run/x.mp4",)
    missing, unnamed = dataset.skipped
    assert missing == f"1 videos named by {table} not found under {tmp_path / 'videos'}: run/x.mp4"
    assert unnamed == f"1 videos in {tmp_path / 'videos'} are left out, since {table} lacks them: run/e.mp4"
    assert dataset.split_rule == f"split by {table}"
    with pytest.raises(DatasetError, match="1 videos named by"):
        folder(tmp_path / "videos", splits=table, strict=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"splits\.csv names no videos: its rows are such as walk/a\.mp4,train"),
        ("walk/a.mp4,dev\n", r"line 1: expected a video and train, val or test, got 'walk/a\.mp4,dev'"),
        ("walk/a.mp4,train,1\n", r"line 1: expected a video and train, val or test"),
        ("walk/a.mp4,train\nwalk/a.mp4,test\n", r"line 2: 'walk/a\.mp4' is in another part before"),
        ("walk/a.mp4,val\n", r"puts no video into train: it should name train, val and test"),
        ("walk/b.mp4,train\n", r"1 videos named by .*splits\.csv not found under .*: walk/b\.mp4"),
        ("walk/a.mp4,\udcff\n", r"splits\.csv is not a CSV file in UTF-8"),
    ],
)
def test_csv_files_that_cannot_be_right(tmp_path, text, message):
    touch(tmp_path / "videos" / "walk" / "a.mp4")
    (tmp_path / "splits.csv").write_text(text, errors="surrogateescape")
    with pytest.raises(DatasetError, match=message):
        folder(tmp_path / "videos", splits=tmp_path / "splits.csv", strict=True)


def test_csv_files_without_any_of_the_videos(tmp_path):
    touch(tmp_path / "videos" / "walk" / "a.mp4")
    with pytest.raises(
        DatasetError, match=r"no CSV file of splits at .*none\.csv: its rows are such as walk/a\.mp4,train"
    ):
        folder(tmp_path / "videos", splits=tmp_path / "none.csv")
    (tmp_path / "splits.csv").write_text("walk/b.mp4,train\n")
    with pytest.raises(DatasetError, match=r"none of the videos named by .*splits\.csv is in .*videos"):
        folder(tmp_path / "videos", splits=tmp_path / "splits.csv")


def test_clips_of_one_film_stay_together_in_a_folder(tmp_path):
    for film in range(6):
        for name in ("walk", "run"):
            for cut in range(2):
                touch(tmp_path / name / f"film{film}_{name}_f_cm_np1_ri_med_{cut}.avi")
    films = {}
    for clip, part in parts_of(folder(tmp_path)).items():
        films.setdefault(group_of_clip(clip), set()).add(part)
    assert all(len(parts) == 1 for parts in films.values())
    assert {part for (part,) in films.values()} == {"train", "validation", "test"}


AS_NOBODY = """
import os, sys
from pathlib import Path
if os.geteuid() == 0:
    os.setuid(65534)
from glimpse_env.datasets import DatasetError, folder
dataset = folder(Path(sys.argv[1]))
print(dataset.class_names, *dataset.skipped, sep="|")
try:
    folder(Path(sys.argv[1]), strict=True)
except DatasetError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="this system closes no folders to a user")
def test_a_class_folder_without_permission_is_named(tmp_path):
    videos = tmp_path / "videos"
    touch(videos / "run" / "a.mp4")
    touch(videos / "walk" / "a.mp4")
    for place in (videos, *list(videos.parents)[:3]):
        place.chmod(0o755)
    (videos / "walk").chmod(0)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, videos], capture_output=True, text=True, check=False, env=environment
    )
    (videos / "walk").chmod(0o755)
    if "Permission denied" not in ran.stdout and ran.returncode:
        pytest.skip(f"nobody cannot read this Python: {ran.stderr[-200:]}")
    first, second = ran.stdout.splitlines()
    left_out = f"the videos in {videos / 'walk'} are left out: it cannot be opened (Permission denied)"
    assert first == f"('run',)|{left_out}"
    assert second == left_out
