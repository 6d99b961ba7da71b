"""The synthetic source: its clips never change, keep the protocol, and need a look at the actor."""

import copy
import hashlib
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from glimpse_env.rules import classes_at
from glimpse_env.sources.protocol import ClipSource
from glimpse_env.sources.synthetic import (
    CLASS_NAMES,
    EasySyntheticSource,
    SyntheticSource,
    UntrimmedSyntheticSource,
)

ROOT = Path(__file__).parent.parent
SPLITS = ("train", "validation", "test")


def read_clip(source, clip, dtype=np.float16):
    """Return (T, K, K, D), all cubes of one clip."""
    frames = np.arange(source.num_frames)
    out = np.empty((source.num_frames, source.grid_size, source.grid_size, source.depth), dtype)
    source.read_cubes(np.full_like(frames, clip), frames, out)
    return out


def amber_pixels(image):
    """Return (K, K, P, P) bool, where a pixel has the actor's colour, but for noise."""
    size = len(image) // 16
    red, green, blue = image.astype(int).transpose(2, 0, 1)
    return ((red >= 210) & (green >= 158) & (blue < 80)).reshape(size, 16, size, 16).swapaxes(1, 2)


@pytest.mark.parametrize("split", SPLITS)
def test_keeps_the_protocol(split):
    source = SyntheticSource(split)
    assert isinstance(source, ClipSource)
    assert (source.num_frames, source.grid_size, len(source.class_names)) == (16, 7, 8)
    assert source.trimmed
    times = source.frame_times(3)
    (segment,) = source.segments(3)
    assert (times.dtype, times.shape) == (np.float64, (16,))
    np.testing.assert_allclose(np.diff(times), 1 / source.frames_per_second)
    assert segment == (0.0, 16 / source.frames_per_second, 3)
    assert source.clip_id(3) == f"synthetic-{split}-0003"


def test_unknown_split_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="unknown split 'valid': the synthetic source has train, validation, test"):
        SyntheticSource("valid")


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_balanced(split):
    source = SyntheticSource(split)
    labels = [source.segments(clip)[0].label for clip in range(source.num_clips)]
    assert np.ptp(np.bincount(labels, minlength=8)) == 0


def test_a_clip_does_not_depend_on_the_order_of_reading():
    upward = SyntheticSource("test")
    cubes = [read_clip(upward, clip) for clip in range(6)]
    upward._bank.firsts[:] = -1  # forgotten
    downward = SyntheticSource("test")
    for clip in reversed(range(6)):
        np.testing.assert_array_equal(read_clip(downward, clip), cubes[clip])
        np.testing.assert_array_equal(downward.image(clip, 5), upward.image(clip, 5))
        np.testing.assert_array_equal(downward.actor(clip), upward.actor(clip))


def test_a_clip_is_the_same_everywhere():
    # Recorded once: other values mean another data set, and results to measure again.
    source = SyntheticSource("train")
    assert hashlib.sha256(source.image(7, 9).tobytes()).hexdigest()[:16] == "01e78161c0500012"
    assert hashlib.sha256(read_clip(source, 7).astype("<f2").tobytes()).hexdigest()[:16] == "dd05a2ec4804a66b"


def test_splits_and_clips_differ():
    first = [read_clip(SyntheticSource(split), clip) for split in SPLITS for clip in (0, 8)]
    assert len({cubes.tobytes() for cubes in first}) == len(first)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_slices_are_the_cubes_cells(dtype):
    source = SyntheticSource("validation")
    rng = np.random.default_rng(1)
    clips, frames, cells = (rng.integers(0, high, 40) for high in (5, 16, 49))
    cubes, slices = np.empty((40, 7, 7, source.depth), dtype), np.empty((40, source.depth), dtype)
    source.read_slices(clips, frames, cells, slices)
    SyntheticSource("validation").read_cubes(clips, frames, cubes)
    np.testing.assert_array_equal(slices, cubes.reshape(40, 49, -1)[np.arange(40), cells])
    np.testing.assert_array_equal(cubes[0], read_clip(source, clips[0], dtype)[frames[0]])


def test_features_keep_their_bound():
    source = SyntheticSource("train")
    cubes = np.stack([read_clip(source, clip, np.float32) for clip in range(50)])
    assert np.isfinite(cubes).all()
    assert cubes.min() == 0
    assert 1 < cubes.max() <= source.max_feature


def test_clips_past_the_last_are_no_clips():
    source = SyntheticSource("test")
    with pytest.raises(IndexError):
        read_clip(source, source.num_clips)


@pytest.mark.parametrize("clip", [0, 11])
def test_the_actor_is_drawn_in_its_cell(clip):
    source = SyntheticSource("train")
    actor = source.actor(clip)
    assert (actor.dtype, actor.shape) == (np.bool_, (16, 7, 7))
    for frame in range(16):
        image = source.image(clip, frame)
        assert (image.dtype, image.shape) == (np.uint8, (112, 112, 3))
        covered = amber_pixels(image).mean((2, 3))
        np.testing.assert_array_equal(covered > 0.1, actor[frame])
        assert (covered[~actor[frame]] == 0).all()


def test_the_actor_walks_from_cell_to_neighbouring_cell():
    source = SyntheticSource("train")
    paths = np.array([np.argwhere(source.actor(clip))[:, 1:] for clip in range(60)])  # (clips, T, 2)
    steps = np.abs(np.diff(paths, axis=1)).sum(2)
    assert set(np.unique(steps)) == {0, 1}
    assert 0.2 < steps.mean() < 0.3


def pose_of(body):
    """Name the pose of a (P, P) bool body: by its height and width, then by the half with the larger part of it."""
    rows, columns = np.flatnonzero(body.any(1)), np.flatnonzero(body.any(0))
    if len(rows) < 8:
        return "B"
    if len(columns) < 8:
        return "D"
    return "A" if body[rows[0]].sum() > body[rows[-1]].sum() else "C"


def test_the_label_spells_the_actors_poses():
    source = SyntheticSource("train")
    for clip in range(24):
        actor = source.actor(clip)
        middles = [1, 5, 9, 13]  # a pose changes within a frame of 4, 8 and 12
        bodies = [amber_pixels(source.image(clip, frame))[actor[frame]][0] for frame in middles]
        assert "".join(map(pose_of, bodies)) == CLASS_NAMES[source.segments(clip)[0].label]


def statistics(split, num_clips):
    """Return the labels, and for each way of looking at all frames (num_clips, T * D) numbers."""
    source, rng = SyntheticSource(split), np.random.default_rng(3)
    cubes = np.stack([read_clip(source, clip, np.float32) for clip in range(num_clips)])
    slices = cubes.reshape(-1, 49, source.depth)
    actors = np.stack([source.actor(clip) for clip in range(num_clips)]).reshape(-1, 49).argmax(1)
    frames = np.arange(len(slices))
    five = rng.integers(0, 49, (len(slices), 5))
    looks = {
        "actor": slices[frames, actors],
        "mean": slices.mean(1),
        "maximum": slices.max(1),
        "sum of squares": (slices**2).sum(1),
        "five at random": slices[frames[:, None], five].mean(1),
    }
    seen = {name: look.reshape(num_clips, -1) for name, look in looks.items()}
    return np.arange(num_clips) % 8, seen | {"first frame": slices[::16].reshape(num_clips, -1)}


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:lbfgs failed to converge", "ignore::FutureWarning")
def test_a_linear_classifier_needs_the_cells_of_the_actor():
    """scikit-learn's logistic regression, as it is and with the C that is best on validation clips; chance is 0.125."""
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    splits = {split: statistics(split, count) for split, count in (("train", 1600), ("validation", 200), ("test", 400))}
    (labels, train), (valid_labels, valid), (test_labels, test) = splits.values()

    def scores(look, strengths):
        """Return the accuracy on test clips of the default, and of the best of standardised inputs and these C."""
        default = LogisticRegression().fit(train[look], labels)
        scaled = [make_pipeline(StandardScaler(), LogisticRegression(C=c)).fit(train[look], labels) for c in strengths]
        best = max(scaled, key=lambda model: model.score(valid[look], valid_labels))
        return default.score(test[look], test_labels), best.score(test[look], test_labels)

    for look in ("mean", "maximum", "sum of squares", "five at random", "first frame"):
        assert max(scores(look, (0.01, 0.001))) <= 0.45, look  # before the poses were balanced: 0.76, 0.87, 0.83
    assert max(scores("actor", (0.01,))) > 0.98


def test_sources_of_one_split_share_their_clips():
    one, other = SyntheticSource("test"), SyntheticSource("test")
    read_clip(one, 9)
    assert other._bank is one._bank
    assert SyntheticSource("train")._bank is not one._bank
    assert UntrimmedSyntheticSource("test")._bank is not one._bank


def test_memory_grows_with_the_clips_that_were_read(monkeypatch):
    monkeypatch.setattr("glimpse_env.sources.synthetic._BANKS", {})  # other tests may hold theirs
    source = SyntheticSource("train")
    for clip in range(100, 140):
        read_clip(source, clip)
    assert source._bank.rows.nbytes <= 2 * 40 * 16 * 49 * 32 * 2  # twice forty clips, of 200 MB for all


MANY = """
from pathlib import Path
import gymnasium as gym
import glimpse_env
def peak():  # ru_maxrss would include the process that started this one
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
before = peak()
envs = [gym.make("VideoGlimpse-v0") for _ in range(64)]
for seed, env in enumerate(envs):
    for episode in range(10):
        env.reset(seed=64 * episode + seed)
        for _ in range(16):
            env.step(env.action_space.sample())
print(before, peak())
"""


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_many_environments_share_their_memory():
    """64 single environments and 640 episodes: 100 MB for all, 1.3 GB when each has room for all clips."""
    done = subprocess.run([sys.executable, "-c", MANY], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < 400, f"{before} MB before, {after} MB after"


def test_a_copy_makes_its_clips_anew():
    source = SyntheticSource("validation")
    read_clip(source, 2)
    twin = copy.deepcopy(source)
    assert twin.split == "validation"
    np.testing.assert_array_equal(read_clip(twin, 2), read_clip(source, 2))


# ---- untrimmed


def test_untrimmed_clips_have_two_or_three_actions_between_background():
    source, half = UntrimmedSyntheticSource("train"), 0.5 / 8
    counts, classes, used = set(), set(), np.zeros(len(CLASS_NAMES), int)
    for clip in range(64):
        segments = source.segments(clip)
        counts.add(len(segments))
        classes.add(len({segment.label for segment in segments}))
        used[[segment.label for segment in segments]] += 1
        borders = (
            np.array([[start, end] for start, end, _ in segments]) + half
        )  # in frames: start, and one after the end
        frames = (borders * 8).round(6)
        np.testing.assert_array_equal(frames, frames.round())
        lengths = frames[:, 1] - frames[:, 0]
        assert lengths.min() >= 10
        assert lengths.max() <= 14
        assert (np.diff(np.concatenate([[0], frames.ravel(), [48]]))[::2] >= 1).all()  # background
        assert clip % 8 in {segment.label for segment in segments}
    assert (counts, classes) == ({2, 3}, {1, 2})
    assert used.min() > 0


def test_the_actor_acts_within_its_segments_and_ducks_outside():
    source = UntrimmedSyntheticSource("validation")
    for clip in range(6):
        actor, times = source.actor(clip), source.frame_times(clip)
        is_background = ~classes_at(times, source.segments(clip), 8).any(1)
        for frame in range(48):
            body = amber_pixels(source.image(clip, frame))[actor[frame]][0]
            assert body.sum() == 84  # in every pose, so the area does not show the pose
            assert (np.ptp(np.flatnonzero(body.any(1))) == 9) == is_background[
                frame
            ]  # five marks high, unlike the poses
        for start, end, label in source.segments(clip):
            middles = [int((start + (end - start) * part) * 8 + 0.5) for part in (0.125, 0.375, 0.625, 0.875)]
            poses = [pose_of(amber_pixels(source.image(clip, frame))[actor[frame]][0]) for frame in middles]
            assert sum(pose == truth for pose, truth in zip(poses, CLASS_NAMES[label], strict=True)) >= 3


def test_untrimmed_splits_are_disjoint_and_reproducible():
    first = [read_clip(UntrimmedSyntheticSource(split), clip) for split in SPLITS for clip in (0, 8)]
    assert len({cubes.tobytes() for cubes in first}) == len(first)
    again = read_clip(UntrimmedSyntheticSource("train"), 0)
    np.testing.assert_array_equal(again, first[0])


@pytest.mark.parametrize("matching", ["frame", "segment"])
def test_perfect_predictions_earn_the_whole_reward_of_an_untrimmed_clip(matching):
    env = gym.make("VideoGlimpse-v0", source="synthetic-untrimmed", matching=matching, glimpses=1)
    for clip in range(4):
        _, info = env.reset(options={"clip": clip})
        assert info["label"].dtype == np.bool_
        truth = classes_at(np.arange(48) / 8, env.unwrapped.source.segments(clip), 8)
        for labels in truth:
            _, reward, _, _, info = env.step([0, labels.argmax() if labels.any() else 8])
        expected = truth.any(1).sum() if matching == "frame" else len(env.unwrapped.source.segments(clip))
        assert (info["true_positives"], info["false_positives"], reward) == (expected, 0, expected / 2)
        assert info["is_correct"]


def test_an_untrimmed_environment_passes_gymnasiums_check():
    check_env(gym.make("VideoGlimpse-v0", source="synthetic-untrimmed", render_mode="rgb_array").unwrapped)


# ---- easy


def test_the_easy_actor_ducks_first_and_then_strikes_the_pose_of_its_class():
    source = EasySyntheticSource("train")
    size, frames = source.grid_size, source.num_frames
    assert {int(source.actor(clip)[0].argmax()) for clip in range(400)} == set(range(size**2))
    for clip in range(40):
        actor = source.actor(clip)
        assert actor.shape == (frames, size, size)
        assert (actor == actor[0]).all()  # it keeps to its cell
        assert actor[0].sum() == 1
        ((start, end, label),) = source.segments(clip)
        assert (start, end, label) == (0.0, frames / 8, clip % 4)
        for frame in range(frames):
            image = source.image(clip, frame)
            assert image.shape == (16 * size, 16 * size, 3)
            (body,) = amber_pixels(image)[actor[frame]]
            height = np.ptp(np.flatnonzero(body.any(1))) + 1
            assert height == 10 if frame == 0 else pose_of(body) == source.class_names[label]


@pytest.mark.slow
@pytest.mark.ci
def test_statistics_over_cells_do_not_show_the_easy_class():
    linear = pytest.importorskip("sklearn.linear_model")
    seen = {}
    for split, count in (("train", 800), ("test", 400)):
        source = EasySyntheticSource(split)
        slices = np.stack([read_clip(source, clip, np.float32) for clip in range(count)])
        slices = slices.reshape(count, source.num_frames, -1, source.depth)
        actors = np.stack([source.actor(clip)[0].argmax() for clip in range(count)])
        seen[split] = {
            "mean": slices.mean(2), "maximum": slices.max(2), "sum of squares": (slices**2).sum(2),
            "first frame": slices[:, 0], "actor": slices[np.arange(count), :, actors],
        }  # fmt: skip
    for look, train in seen["train"].items():
        model = linear.LogisticRegression(max_iter=1000, C=0.01).fit(train.reshape(800, -1), np.arange(800) % 4)
        score = model.score(seen["test"][look].reshape(400, -1), np.arange(400) % 4)
        assert score > 0.98 if look == "actor" else score < 0.35, look  # chance is 0.25


def test_variants_are_registered():
    easy, untrimmed = gym.make("VideoGlimpseEasy-v0"), gym.make("VideoGlimpseUntrimmed-v0", split="test")
    assert easy.action_space == gym.spaces.MultiDiscrete([easy.unwrapped.source.grid_size**2, 4])
    assert untrimmed.unwrapped.source.clip_id(3) == "synthetic-untrimmed-test-0003"
    check_env(gym.make("VideoGlimpseEasy-v0", render_mode="rgb_array").unwrapped)
    envs = gym.make_vec("VideoGlimpseEasy-v0", num_envs=2, glimpses=2)
    assert isinstance(envs.unwrapped.source, EasySyntheticSource)
    assert envs.single_action_space.shape == (3,)


@pytest.mark.slow
def test_ppo_learns_the_easy_source_from_its_reward_alone():
    """A minute of one core: the task that examples/train_sb3.py trains on with --task easy."""
    pytest.importorskip("sb3_contrib")
    import torch
    import train_sb3

    from glimpse_env.sb3 import GlimpseVecEnv

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the network is small: more threads wait for each other
    rng = np.random.default_rng(1)
    model = train_sb3.make_model("ppo", train_sb3.make_envs("ppo", "train", task="easy"), 1)
    model.learn(550_000)
    torch.set_num_threads(threads)
    envs = GlimpseVecEnv(400, split="test", **train_sb3.TASKS["easy"])
    for looks, low, high in (("its own", 0.8, 1.0), ("random", 0.0, 0.5)):
        observations = envs.envs.reset(seed=1, options={"clip": np.arange(400)})[0]
        for _ in range(4):
            actions = model.predict(observations, deterministic=True)[0]
            if looks == "random":
                actions[:, 0] = rng.integers(0, 9, 400)
            observations, _, _, infos = envs.step(actions)
        assert low <= np.mean([info["is_correct"] for info in infos]) <= high, looks
