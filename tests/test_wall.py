"""Walls of cameras: their cameras, features and labels, worked out by hand on clips that count up."""

import copy
import dataclasses
import itertools
import json
import pickle
from collections import Counter
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from agent_toys import tiny_config
from clip_toys import UnevenSource, counted
from glimpse_agents.cost.macs import filmed_by
from glimpse_agents.playing.envs import SourceRecord
from glimpse_agents.playing.videos import Extraction
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from glimpse_env import ArraySource, ClipSource, VideoGlimpseEnv, VideoGlimpseVectorEnv, WallSource, open_source
from glimpse_env.catalogue import relative_source, resolve_source
from glimpse_env.datasets.description import group_of_clip
from glimpse_env.wall import main

NAMES = ("sit", "run", "walk", "jump")
LABELS = (0, 1, 2, 3, 1, 0, -1)  # events are clips 1, 3 and 4, background 0, 2 and 5; the class of clip 6 is unknown
LENGTHS = (4, 3, 2, 4, 1, 3, 4)
EVENTS, BACKGROUND = (1, 3, 4), (0, 2, 5)


@pytest.fixture
def clips():
    """Seven clips of four or fewer 3 x 3 x 2 cubes; the mean slice of frame n of clip i is 9 + 72 i + 18 n, and 1 more.

    Slice k is 1 + 72 i + 18 n + 2 k, and the mean of 2 k over nine cells is 8.
    """
    return UnevenSource(
        features=counted(7, 4), labels=np.array(LABELS), class_names=NAMES, frames_per_second=10.0, lengths=LENGTHS,
        clip_ids=tuple(f"{NAMES[label]}/Film_{NAMES[label]}_u_nm_np1_ba_goo_{i}.avi" for i, label in enumerate(LABELS)),
    )  # fmt: skip


@pytest.fixture
def wall(clips):
    return WallSource(clips, background=("sit", "walk"), grid=3, walls=60)


def untrimmed_wall(clips, **settings):
    return WallSource(
        clips, **{"background": ("sit", "walk"), "grid": 2, "trimmed": False, "frames": 9, "walls": 300} | settings
    )


def shown(wall, number):
    """Return two (T, K*K) arrays: the clip that each camera shows in each frame, and which frame of it."""
    frames = np.arange(wall.num_frames)
    cubes = np.empty((len(frames), wall.grid_size, wall.grid_size, 2), np.float32)
    wall.read_cubes(np.full_like(frames, number), frames, cubes)
    np.testing.assert_array_equal(cubes[..., 1], cubes[..., 0] + 1)
    clip, rest = np.divmod(cubes[..., 0].reshape(len(frames), -1) - 9, 72)
    np.testing.assert_array_equal(rest % 18, 0)
    return clip.astype(int), (rest // 18).astype(int)


# ---- trimmed walls


def test_keeps_the_protocol(wall, clips):
    assert isinstance(wall, ClipSource)
    assert (wall.num_clips, wall.num_frames, wall.grid_size, wall.depth) == (60, 4, 3, 2)
    assert (wall.class_names, wall.trimmed) == (("run", "jump"), True)  # in the order of the source
    for name in ("frames_per_second", "max_feature"):
        assert getattr(wall, name) == getattr(clips, name)
    np.testing.assert_allclose(wall.frame_times(3), [0, 0.1, 0.2, 0.3])


def test_one_camera_shows_an_event_from_its_first_frame_and_the_others_loop_background(wall):
    offsets = {clip: set() for clip in BACKGROUND}
    for number in range(60):
        which, frames = shown(wall, number)
        assert (which == which[0]).all()  # a camera shows one clip
        (camera,) = np.flatnonzero(np.isin(which[0], EVENTS))
        for cell, clip in enumerate(which[0]):
            first = frames[0, cell]
            np.testing.assert_array_equal(frames[:, cell], (first + np.arange(4)) % LENGTHS[clip])
            if cell != camera:
                offsets[clip].add(first)
        assert frames[0, camera] == 0
        assert wall.actor(number).reshape(4, 9).argmax(1).tolist() == [camera] * 4
        assert wall.actor(number).sum() == 4
    assert offsets == {0: {0, 1, 2, 3}, 2: {0, 1}, 5: {0, 1, 2}}


def test_the_label_is_the_class_of_the_event(wall):
    for number in range(60):
        clip = next(clip for clip in shown(wall, number)[0][0] if clip in EVENTS)
        ((start, end, label),) = wall.segments(number)
        assert wall.class_names[label] == NAMES[LABELS[clip]]
        assert (start, end) == (pytest.approx(-0.05), pytest.approx(0.35))


def test_events_are_taken_in_turn_and_cameras_uniformly(clips):
    wall = WallSource(clips, background=("sit", "walk"), grid=3, walls=900)
    which = [shown(wall, number)[0][0] for number in range(900)]
    order = [next(clip for clip in cameras if clip in EVENTS) for cameras in which]
    assert Counter(order) == dict.fromkeys(EVENTS, 300)
    assert order == order[:3] * 300
    cameras = Counter(int(wall.actor(number)[0].argmax()) for number in range(900))
    # Each of nine is expected 100 times, with a standard deviation of 9.4.
    assert sorted(cameras) == list(range(9))
    assert max(abs(count - 100) for count in cameras.values()) < 38
    background = Counter(itertools.chain(*which))
    # 8 cameras of each of 900 walls: 2400 for each of three clips, with a standard deviation of 40.
    assert max(abs(background[clip] - 2400) for clip in BACKGROUND) < 160


def test_names_tell_the_number_and_the_film(wall):
    for number in range(6):
        clip = next(clip for clip in shown(wall, number)[0][0] if clip in EVENTS)
        assert wall.clip_id(number) == f"wall{number:05d}/{wall._cameras.source.clip_id(clip)}"
        assert group_of_clip(wall.clip_id(number)) == "Film"
    assert len({wall.clip_id(number) for number in range(60)}) == 60


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_slices_are_the_cells_of_cubes(clips, dtype):
    source = dataclasses.replace(clips, features=clips.features.astype(np.float16))
    settings = {"background": ("sit", "walk"), "grid": 3, "walls": 60}
    rng = np.random.default_rng(1)
    numbers, frames, cells = (rng.integers(high, size=80) for high in (60, 4, 9))
    slices, cubes = np.empty((80, 2), dtype), np.empty((80, 3, 3, 2), dtype)
    WallSource(source, **settings).read_slices(numbers, frames, cells, slices)
    WallSource(copy.deepcopy(source), **settings).read_cubes(numbers, frames, cubes)
    np.testing.assert_array_equal(slices, cubes.reshape(80, 9, 2)[np.arange(80), cells])
    assert len(np.unique(slices)) > 10


@pytest.mark.parametrize("value", [0.9, -0.9])
def test_a_mean_never_exceeds_the_bound(value):
    # The float32 mean of 49 times 0.9 may be rounded to more than 0.9.
    features = np.full((2, 3, 7, 7, 5), value, np.float32)
    wall = WallSource(
        ArraySource(features=features, labels=np.array([0, 1]), class_names=("run", "sit")), background=["sit"], walls=2
    )
    cubes = np.empty((1, 5, 5, 5), np.float32)
    wall.read_cubes(np.array([1]), np.array([2]), cubes)
    np.testing.assert_allclose(cubes, value, rtol=1e-6)
    assert wall.min_feature <= cubes.min() <= cubes.max() <= wall.max_feature


def test_negative_features_are_shown_like_others(clips):
    # The mean slice of frame n of clip i is 9 + 72 i + 18 n less 600, and 1 more: from -591 to -590 + 486.
    source = dataclasses.replace(clips, features=clips.features - 600)
    wall = WallSource(source, background=("sit", "walk"), grid=3, walls=60)
    plain = WallSource(clips, background=("sit", "walk"), grid=3, walls=60)
    assert (wall.min_feature, wall.max_feature) == (-599, 0)  # the most is that of cells that are not seen
    cubes, expected = np.empty((2, 4, 3, 3, 2), np.float32)
    frames = np.arange(4)
    for _ in range(2):
        wall.read_cubes(np.full(4, 7), frames, cubes)
    plain.read_cubes(np.full(4, 7), frames, expected)
    np.testing.assert_array_equal(cubes, expected - 600)


def test_a_longer_wall_shows_the_event_again(clips):
    wall = WallSource(clips, background=("sit", "walk"), frames=11, walls=3)
    for number in range(3):
        which, frames = shown(wall, number)
        camera = wall.actor(number)[0].argmax()
        np.testing.assert_array_equal(frames[:, camera], np.arange(11) % LENGTHS[which[0, camera]])


def test_a_wall_depends_on_seed_split_and_number_alone(clips):
    settings = {"background": ("sit", "walk"), "grid": 3}
    few, many = (WallSource(clips, walls=walls, **settings) for walls in (7, 50))
    others = [WallSource(clips, walls=7, **settings, **other) for other in ({"seed": 1}, {"split": "test"})]
    for number in reversed(range(7)):
        np.testing.assert_array_equal(shown(few, number), shown(many, number))
        assert few.clip_id(number) == many.clip_id(number)
    for other in others:
        assert any((np.array(shown(few, number)) != shown(other, number)).any() for number in range(7))


def test_numbers_of_walls_by_split(clips):
    settings = {"background": ("sit", "walk")}
    assert WallSource(clips, walls={"train": 5}, **settings).num_clips == 5
    assert WallSource(clips, walls={"train": 5}, split="test", **settings).num_clips == 3
    with pytest.raises(ValueError, match=r"walls must be numbers for train, validation, test, got \['tests'\]"):
        WallSource(clips, walls={"tests": 5}, **settings)
    with pytest.raises(ValueError, match="walls must be 1 to 4000000 for split 'test', of 25 cameras, got -3"):
        WallSource(clips, walls={"train": 5, "test": -3}, **settings)


def test_numbers_of_walls(clips):
    counts = {
        s: WallSource(clips, background=("sit", "walk"), split=s).num_clips for s in ("train", "validation", "test")
    }
    assert counts == {"train": 4000, "validation": 400, "test": 3}  # three events


def test_copies_are_the_same_walls(wall):
    for twin in (pickle.loads(pickle.dumps(wall)), copy.deepcopy(wall)):  # noqa: S301 - our own bytes
        assert twin.num_clips == 60
        for number in (0, 59):
            np.testing.assert_array_equal(shown(twin, number), shown(wall, number))


def test_walls_over_one_source_share_its_means(clips, wall):
    other = WallSource(clips, background=("sit",), grid=2)
    shown(wall, 0)
    assert other._cameras is wall._cameras
    assert len(pickle.dumps(wall)) < len(pickle.dumps(clips)) + 1000


def test_pictures_stand_in_a_grid(clips):
    images = np.zeros((7, 4, 4, 6, 3), np.uint8)
    images += (10 * np.arange(7)[:, None] + np.arange(4)).astype(np.uint8)[..., None, None, None]
    wall = WallSource(dataclasses.replace(clips, images=images), background=("sit", "walk"), grid=3, walls=5)
    which, frames = shown(wall, 4)
    picture = wall.image(4, 2)
    assert (picture.dtype, picture.shape) == (np.uint8, (12, 18, 3))
    np.testing.assert_array_equal(picture[::4, ::6, 0].ravel(), 10 * which[2] + frames[2])
    np.testing.assert_array_equal(picture[:4, :6], np.broadcast_to(picture[0, 0], (4, 6, 3)))


def test_large_pictures_are_made_smaller(clips):
    images = np.zeros((7, 4, 800, 600, 3), np.uint8)
    images[:, :, 1::2] = 100
    wall = WallSource(dataclasses.replace(clips, images=images), background=("sit", "walk"), grid=2, walls=5)
    picture = wall.image(0, 0)  # 2 * 800 is twice the largest picture, so two by two pixels become one
    assert picture.shape == (800, 600, 3)
    assert (picture == 50).all()


def test_without_pictures_there_is_none(wall):
    assert wall.image(0, 0) is None


# ---- untrimmed walls


def test_an_event_starts_any_time_and_lasts_as_long_as_its_clip(clips):
    wall, starts, counts = untrimmed_wall(clips), {clip: [] for clip in EVENTS}, Counter()
    assert not wall.trimmed
    for number in range(300):
        which, frames = shown(wall, number)
        is_event = np.isin(which, EVENTS)
        np.testing.assert_array_equal(wall.actor(number).reshape(9, 4), is_event)
        cameras = np.flatnonzero(is_event.any(0))
        counts[len(cameras)] += 1
        expected = []
        for camera in cameras:
            times = np.flatnonzero(is_event[:, camera])
            clip = which[times[0], camera]
            assert times.tolist() == list(range(times[0], times[0] + LENGTHS[clip]))
            np.testing.assert_array_equal(frames[times, camera], np.arange(LENGTHS[clip]))
            rest = np.flatnonzero(~is_event[:, camera])
            assert len(set(which[rest, camera])) == 1  # one background clip before and after
            starts[clip].append(times[0])
            # Frame n stands for the tenth of a second around n / 10.
            expected.append(
                ((times[0] - 0.5) / 10, (times[-1] + 0.5) / 10, LABELS[clip] // 2)
            )  # run 1 -> 0, jump 3 -> 1
        np.testing.assert_allclose(np.array(wall.segments(number)), sorted(expected))
    assert counts.keys() == {1, 2}
    assert abs(counts[1] - 150) < 35  # a standard deviation is 8.7
    for clip, found in starts.items():
        assert set(found) == set(range(9 - LENGTHS[clip] + 1))
    totals = [len(found) for found in starts.values()]
    assert max(totals) - min(totals) <= 1  # in turn


def test_labels_of_frames_in_an_untrimmed_episode(clips):
    wall = untrimmed_wall(clips)
    env = VideoGlimpseEnv(source=wall, glimpses=1)
    assert env.action_space.nvec.tolist() == [4, 3]  # abstains
    for number in range(20):
        _, info = env.reset(options={"clip": number})
        truth = np.array([env.step(np.array([0, 2]))[4]["frame_labels"] for _ in range(9)])
        which, _ = shown(wall, number)
        np.testing.assert_array_equal(truth[:, 0], np.isin(which, (1, 4)).any(1))
        np.testing.assert_array_equal(truth[:, 1], (which == 3).any(1))
        np.testing.assert_array_equal(info["label"], truth.any(0))


def test_the_number_of_events_may_reach_that_of_the_cameras(clips):
    wall = untrimmed_wall(clips, events=4)
    cameras = [len(set(np.nonzero(wall.actor(number).reshape(9, 4))[1])) for number in range(100)]
    assert set(cameras) == {1, 2, 3, 4}
    assert [len(wall.segments(number)) for number in range(100)] == cameras


def test_defaults_of_untrimmed_walls(clips):
    wall = untrimmed_wall(clips, frames=None)
    assert (wall.num_frames, wall.events) == (20, 2)  # five times the four frames of an event


# ---- as an environment


@pytest.fixture
def named(tmp_path):
    """The name of a wall over the synthetic source."""
    out = tmp_path / "wall.json"
    main(["synthetic", "--grid", "3", "--background", "AABC", "CBAA", "--walls", "40", "20", "10", "--out", str(out)])
    return f"wall:{out}"


@pytest.mark.parametrize("observation", ["glimpsed", "cube", "slices", "blind"])
def test_passes_gymnasiums_check(named, observation):
    check_env(gym.make("VideoGlimpse-v0", source=named, observation=observation, render_mode="rgb_array").unwrapped)


def test_a_spec_goes_through_json_and_back(named):
    first = gym.make("VideoGlimpse-v0", source=named, split="test")
    second = gym.make(EnvSpec.from_json(first.spec.to_json()))
    assert second.unwrapped.num_clips == 10
    (before, info), (after, other) = first.reset(seed=3), second.reset(seed=3)
    np.testing.assert_array_equal(before, after)
    assert info["clip_id"] == other["clip_id"]
    assert before.any()


def test_the_vector_environment_plays_the_same_walls(named):
    arguments = {"source": named, "glimpses": 2}
    single, vector = VideoGlimpseEnv(**arguments), VideoGlimpseVectorEnv(3, **arguments)
    clips = np.array([5, 30, 5])
    batch, infos = vector.reset(seed=1, options={"clip": clips})
    vector.action_space.seed(1)
    actions = [vector.action_space.sample() for _ in range(16)]
    batches = [batch] + [vector.step(action)[0] for action in actions]
    for env, clip in enumerate(clips):
        alone, info = single.reset(options={"clip": int(clip)})
        assert info["clip_id"] == infos["clip_id"][env]
        np.testing.assert_array_equal(batches[0][env], alone)
        for action, observed in zip(actions, batches[1:], strict=True):
            np.testing.assert_array_equal(observed[env], single.step(action[env])[0])


def test_a_wall_is_drawn(named):
    env = gym.make("VideoGlimpse-v0", source=named, render_mode="rgb_array")
    env.reset(seed=1)
    assert env.render()[:336].std() > 10  # 3 x 3 pictures of clutter and figures


def test_splits_share_no_clip(named):
    walls = [open_source(named, split=split) for split in ("train", "validation", "test")]
    events = [{wall.clip_id(number).split("/", 1)[1] for number in range(wall.num_clips)} for wall in walls]
    assert [len(names) for names in events] == [40, 20, 10]
    assert all(len(one & other) == 0 for one, other in itertools.combinations(events, 2))


def test_environments_of_one_wall_share_its_source(named):
    one, other = open_source(named), open_source(named)
    assert one._cameras is other._cameras


# ---- descriptions and the command


def test_the_command_writes_its_arguments(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "synthetic --grid 4 --background ABBC --untrimmed --events 3 --frames 50 --fold 1 --seed 9 --out w.json"
    main(words.split())
    assert json.loads((tmp_path / "w.json").read_text()) == {
        "source": "synthetic", "fold": 1, "grid": 4, "background": ["ABBC"], "trimmed": False, "events": 3,
        "frames": 50, "seed": 9,
    }  # fmt: skip
    printed = capsys.readouterr().out.splitlines()
    assert (
        printed[0] == "w.json: 4 x 4 cameras, 50 frames, train 4000, validation 400, test 875"
    )  # 7 of 8 classes of 1000
    assert printed[1] == "7 classes: AABC, CBAA, CBBA, DDBC, DBBC, CBDD, CBBD"
    wall = open_source("wall:w.json")
    monkeypatch.chdir("/")
    assert (wall.grid_size, wall.trimmed, wall.num_frames, wall.events, wall.seed) == (4, False, 50, 3, 9)


def write(tmp_path, **settings):
    path = tmp_path / "wall.json"
    path.write_text(json.dumps({"source": "synthetic", "background": ["AABC"]} | settings))
    return f"wall:{path}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "nowhere"}, "source of a wall cannot be opened: no source '.*nowhere': it is neither 'synthetic'"),
        (
            {"source": "wall:x.json"},
            "a wall is made of synthetic, .* a feature store or a lazy source, got 'wall:.*x.json'",
        ),
        ({"source": "synthetic-untrimmed"}, "made of trimmed clips, of one class each"),
        (
            {"background": ["AABC", "sit", "abc"]},
            r"background names \['abc', 'sit'\] are no classes .* it has AABC, ABBC",
        ),
        ({"background": []}, "background must name 1 to 7 of the 8 classes, got 0"),
        ({"background": "AABC"}, "background must be a list of class names, got 'AABC'"),
        ({"background": None}, "background must be a list of class names, got None"),
        ({"background": {"AABC": 1}}, "background must be a list of class names, got {'AABC': 1}"),
        ({"background": [1]}, r"background must be a list of class names, got \[1\]"),
        ({"grid": 1}, "grid must be the cameras along each side, 2 to 32, got 1"),
        ({"grid": 33}, "grid must be .* 2 to 32, got 33"),
        ({"grid": 2.5}, "grid must be .* 2 to 32, got 2.5"),
        ({"events": 2}, "events must be 1 on a trimmed wall, got 2"),
        ({"grid": 2, "trimmed": False, "events": 5}, "events must be 1 to 4, one camera for each, got 5"),
        ({"trimmed": False, "events": 0}, "events must be 1 to 25, one camera for each, got 0"),
        ({"trimmed": "no"}, "trimmed must be True or False, got 'no'"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"trimmed": False, "frames": 16}, "frames must be at least 17, more than the 16 of the longest event, got 16"),
        ({"walls": {"train": 0}}, "walls must be 1 to 4000000 for split 'train', of 25 cameras, got 0"),
        ({"walls": {"train": 10**7}}, "walls must be 1 to 4000000 for split 'train', of 25 cameras, got 10000000"),
        ({"walls": 7}, "walls must be an object with numbers for train, validation and test, got 7"),
        ({"walls": {"tests": 7}}, "walls must be an object with numbers for train, validation and test, got"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"fold": True}, "unknown fold True: the synthetic source has fold 1"),
        ({"fold": 2}, "unknown fold 2: the synthetic source has fold 1"),
        ({"cameras": 3}, r"unknown settings \['cameras'\]: a wall takes source, fold, grid"),
        ({"source": 5}, "describes no wall: it must be a JSON object with a source and a background"),
    ],
)
def test_settings_that_make_no_wall(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        gym.make("VideoGlimpse-v0", source=write(tmp_path, **settings))


def test_files_that_describe_no_wall(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no description of a wall at .*x\.json: write one with python -m"):
        open_source(f"wall:{tmp_path / 'x.json'}")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json is not JSON .*: write it again with python -m glimpse_env\.wall"):
        open_source(f"wall:{tmp_path / 'x.json'}")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match="describes no wall"):
        open_source(f"wall:{tmp_path / 'x.json'}")


def test_another_fold_than_the_walls_own(tmp_path):
    with pytest.raises(ValueError, match="this wall is of fold 1: leave fold out, got 2"):
        open_source(write(tmp_path, fold=1), fold=2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((0, 2, 0, -1, 2, 0, 2), "no event in split 'test': it has no clip of run, jump"),
        ((1, 3, 1, -1, 3, 1, 3), "no background clip in split 'test': it has no clip of sit, walk"),
    ],
)
def test_a_split_without_events_or_background(clips, labels, message):
    with pytest.raises(ValueError, match=message):
        WallSource(dataclasses.replace(clips, labels=np.array(labels)), background=("sit", "walk"), split="test")


def test_unknown_splits_and_crops(clips):
    with pytest.raises(ValueError, match="unknown split 'all': a wall has train, validation, test"):
        WallSource(clips, background=("sit",), split="all")

    class Cropped(UnevenSource):
        crop = 64

    fields = {field.name: getattr(clips, field.name) for field in dataclasses.fields(clips) if field.init}
    with pytest.raises(ValueError, match="this source is of crops of 64 pixels: extract without --crop"):
        WallSource(Cropped(**fields), background=("sit",))


def test_errors_of_the_command_are_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: background names \['sit'\] are no classes"):
        main(["synthetic", "--background", "sit", "--out", str(tmp_path / "w.json")])
    assert list(tmp_path.iterdir()) == []


def test_a_description_is_not_replaced_by_another(tmp_path):
    words = ["synthetic", "--background", "ABBC", "--out"]
    main([*words, str(tmp_path / "w.json")])
    main([*words, str(tmp_path / "w.json")])  # the same again
    before = (tmp_path / "w.json").read_bytes()
    with pytest.raises(SystemExit, match=r"^error: --out .*w\.json exists: delete it, or choose another file"):
        main([*words, str(tmp_path / "w.json"), "--grid", "3"])
    assert (tmp_path / "w.json").read_bytes() == before
    with pytest.raises(SystemExit, match=r"^error: --out .* exists: delete it, or choose another file"):
        main([*words, str(tmp_path)])


def test_a_wall_moves_with_its_store(tmp_path, monkeypatch):
    agent_toys = pytest.importorskip("agent_toys")
    (tmp_path / "one" / "walls").mkdir(parents=True)
    store = agent_toys.write_marked_store(tmp_path / "one" / "stores" / "marked")
    monkeypatch.chdir(tmp_path / "one")
    command = ["--grid", "3", "--background", "classa", "--out", "walls/wall.json"]
    main(["stores/marked", *command])
    main([str(store), *command])  # the same wall
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").rename(tmp_path / "two")
    assert open_source(f"wall:{tmp_path}/two/walls/wall.json").grid_size == 3


@pytest.mark.parametrize("prefix", ["", "lazy:"])
def test_paths_in_a_description_start_at_its_folder(prefix, tmp_path, monkeypatch):
    (tmp_path / "big").mkdir()
    (tmp_path / "here" / "walls").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert relative_source(f"{prefix}stores/marked", Path("walls")) == f"{prefix}./../stores/marked"
    absolute = f"{prefix}{tmp_path}/marked"
    assert relative_source(absolute, Path("walls")) == absolute
    # A store may have the name of a synthetic source, and a link stays a link.
    assert relative_source(f"{prefix}stores/synthetic", Path("stores")) == f"{prefix}./synthetic"
    (tmp_path / "here" / "stores").symlink_to(tmp_path / "big")
    assert relative_source(f"{prefix}stores/marked", Path()) == f"{prefix}./stores/marked"
    assert resolve_source(f"{prefix}./stores/marked", tmp_path / "here") == f"{prefix}{tmp_path}/big/marked"


# ---- over videos


@pytest.fixture(scope="module")
def videos(weights, tmp_path_factory):
    """The path of a description of three videos of an event and four of background, at 10 frames a second."""
    write_video = pytest.importorskip("extraction_inputs").write_video
    root = tmp_path_factory.mktemp("videos")
    for name, frames in {
        "run/a": 12,
        "run/b": 9,
        "run/c": 12,
        "sit/a": 9,
        "sit/b": 12,
        "sit/c": 9,
        "sit/d": 12,
    }.items():
        (root / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / "videos" / f"{name}.mp4", frames=frames)
    content = {"dataset": "folder", "videos": "videos", "weights": str(weights), "frames": 3, "fps": 10.0}
    (root / "lazy.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def lazy_wall(videos):
    """The wall's path and its opened source of videos."""
    (videos / "wall.json").write_text(json.dumps({"source": "lazy:lazy.json", "background": ["sit"], "grid": 3}))
    return f"wall:{videos / 'wall.json'}"


def test_only_cameras_that_are_looked_at_are_decoded_and_computed(lazy_wall):
    env = VideoGlimpseEnv(source=lazy_wall, glimpses=2, first_glance="none")
    source = env.source._cameras.source
    assert env.source.computes_features
    for clip in range(4):
        source.forget()
        env.source._cameras._lengths[:] = 0  # as if it had just been opened
        env.source._cameras._bank.firsts[:] = -1
        before = source.frames_computed
        env.reset(options={"clip": clip})
        assert (source.frames_computed - before, len(source._held)) == (0, 0)
        env.step(np.array([4, 4, 0]))  # one camera
        assert (source.frames_computed - before, len(source._held)) == (1, 1)
        env.step(np.array([4, 4, 0]))
        assert (source.frames_computed - before, len(source._held)) == (2, 1)


def test_the_network_of_cameras_is_known(lazy_wall):
    config, cameras = tiny_config(), filmed_by(open_source(lazy_wall, split="test"))
    assert Extraction.of_run(config, SourceRecord.of(config, cameras)).backbone == "bvlc_googlenet"


def test_frames_that_are_jumped_over_are_not_computed(lazy_wall):
    env = VideoGlimpseEnv(source=lazy_wall, glimpses=1, first_glance="none", jumps=(2,))
    source = env.source._cameras.source
    env.source._cameras._bank.firsts[:] = -1
    env.reset(options={"clip": 0})
    before = source.frames_computed
    assert env.step(np.array([4, 0, 0]))[4]["frame"] == 3
    assert env.step(np.array([4, 0, 0]))[2]
    assert source.frames_computed - before == 1


def test_a_whole_first_glance_runs_the_network_once_for_each_camera(lazy_wall):
    env = VideoGlimpseEnv(source=lazy_wall, glimpses=2)
    source, cells = env.source._cameras.source, np.arange(9)
    places = env.source._shown(np.full(9, 7), np.zeros(9, int), cells)
    for expected in (len(set(zip(*places, strict=True))), 0):  # two cameras may show the same frame of a clip
        before = source.frames_computed
        env.reset(options={"clip": 7})
        assert source.frames_computed - before == expected  # a second episode computes nothing


def test_a_slice_is_the_mean_of_the_videos_cube(lazy_wall):
    wall = open_source(lazy_wall)
    source = wall._cameras.source
    out, cube = np.empty((1, wall.depth), np.float32), np.empty((1, 7, 7, wall.depth), np.float32)
    camera = int(wall.actor(3)[0].argmax())
    wall.read_slices(np.array([3]), np.array([2]), np.array([camera]), out)
    name = wall.clip_id(3).split("/", 1)[1]
    (clip,) = (clip for clip in range(source.num_clips) if source.clip_id(clip) == name)
    source.read_cubes(np.array([clip]), np.array([2]), cube)
    np.testing.assert_allclose(out[0], cube[0].mean((0, 1)), rtol=1e-6)
