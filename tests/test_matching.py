"""Matching predictions with the truth: examples worked out by hand, and a brute-force matcher on random ones."""

from fractions import Fraction

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimpse_env import Segment
from glimpse_env.rules import claimed_segments, predicted_segments, temporal_iou

CLASSES = 3
ABSTAIN = CLASSES


def segments_of(predictions):
    """Predictions at 0, 1, 2, ... seconds, each of which stands for a second."""
    times = np.arange(float(len(predictions)))
    return predicted_segments(np.array(predictions), times, frame_seconds=1.0, num_classes=CLASSES)


def count(predictions, truths, threshold=0.5):
    """Return N+ and N-."""
    predicted = segments_of(predictions)
    claimed = claimed_segments(predicted, [Segment(*truth) for truth in truths], overlap_threshold=threshold)
    return len(claimed), len(predicted) - len(claimed)


@pytest.mark.parametrize(
    ("predictions", "segments"),
    [
        ([1], [(-0.5, 0.5, 1)]),
        ([1, 1, 0, 0, 0], [(-0.5, 1.5, 1), (1.5, 4.5, 0)]),
        ([0, ABSTAIN, 0], [(-0.5, 0.5, 0), (1.5, 2.5, 0)]),  # "no prediction" separates equal predictions
        ([ABSTAIN, ABSTAIN], []),
    ],
)
def test_runs_become_segments(predictions, segments):
    assert segments_of(predictions) == segments


def test_repeated_frames_lengthen_nothing():
    # A clip that is too short repeats its last frame and its time.
    predicted = predicted_segments(
        np.array([0, 0, 0, 1]), np.array([0.0, 1.0, 1.0, 1.0]), frame_seconds=1.0, num_classes=2
    )
    assert predicted == [(-0.5, 1.5, 0), (0.5, 1.5, 1)]


@pytest.mark.parametrize(
    ("first", "second", "iou"),
    [
        ((0, 2, 0), (1, 3, 0), 1 / 3),
        ((0, 2, 0), (0, 2, 1), 1.0),  # of time alone
        ((0, 1, 0), (1, 2, 0), 0.0),
        ((0, 1, 0), (4, 5, 0), 0.0),
        ((1, 1, 0), (0, 2, 0), 0.0),  # no length, nothing shared
        ((1, 1, 0), (1, 1, 0), 0.0),
    ],
)
def test_temporal_iou(first, second, iou):
    assert temporal_iou(Segment(*first), Segment(*second)) == pytest.approx(iou)
    assert temporal_iou(Segment(*second), Segment(*first)) == pytest.approx(iou)


@pytest.mark.parametrize(
    ("predictions", "truths", "counts"),
    [
        # One truth, and predictions that meet it, part it, miss its class, or abstain.
        ([0, 0, 0, 0], [(-0.5, 3.5, 0)], (1, 0)),
        ([0, 0, 0, 1], [(-0.5, 3.5, 0)], (1, 1)),  # 3 / 4
        ([0, 0, 1, 1], [(-0.5, 3.5, 0)], (0, 2)),  # 1 / 2 does not exceed 1 / 2
        ([1, 1, 1, 1], [(-0.5, 3.5, 0)], (0, 1)),
        ([ABSTAIN] * 4, [(-0.5, 3.5, 0)], (0, 0)),
        ([0, 0, 0, ABSTAIN, 0], [(-0.5, 3.5, 0)], (1, 1)),  # the second run is of no use
        # A truth takes one prediction, and a prediction serves one truth.
        ([0, 0, 0, 0], [(-0.5, 3.5, 0), (-0.5, 3.5, 0)], (1, 0)),
        ([0, 0, 0, 0], [(-0.5, 3.5, 0), (-0.5, 3.5, 1)], (1, 0)),
        ([0, 0, 1, 1], [(-0.5, 1.5, 0), (1.5, 3.5, 1)], (2, 0)),
        # Truths without length, past the end, or none at all.
        ([0, 0], [(0.0, 0.0, 0)], (0, 1)),
        ([0, 0], [(0.5, 9.0, 0)], (0, 1)),
        ([0, 0], [], (0, 1)),
    ],
)
def test_true_and_false_positives(predictions, truths, counts):
    assert count(predictions, truths) == counts


def test_truths_claim_in_order_of_start_end_and_class():
    # Both truths overlap both runs; the earlier one takes the run that it overlaps more, whatever the later one wants.
    predictions, truths = [0, 0, ABSTAIN, 0, 0], [(1.0, 4.5, 0), (0.0, 4.5, 0)]
    assert [round(temporal_iou(run, Segment(0.0, 4.5, 0)), 3) for run in segments_of(predictions)] == [0.3, 0.444]
    assert count(predictions, truths, threshold=0.4) == (1, 1)  # the other run is left with 0.1 of the later truth
    assert count(predictions, truths, threshold=0.05) == (2, 0)


def test_ties_go_to_the_earliest():
    predicted = segments_of([0, ABSTAIN, 0])
    assert claimed_segments(predicted, [Segment(-0.5, 2.5, 0)], overlap_threshold=0.3) == {0}


def brute_force(predictions, truths, threshold):
    """Count with exact fractions, second by half-second, in another way: a table of overlaps and nothing else."""
    runs, start = [], 0
    for index in range(1, len(predictions) + 1):
        if index == len(predictions) or predictions[index] != predictions[start]:
            runs.append((2 * start - 1, 2 * index - 1, predictions[start]))  # in half seconds
            start = index
    runs = [run for run in runs if run[2] != ABSTAIN]
    free = dict.fromkeys(range(len(runs)))
    for start, end, label in sorted(truths):
        ranked = []
        for index in free:
            first, last, other = runs[index]
            mine, its = set(range(start, end)), set(range(first, last))
            if other == label and mine | its:
                ranked.append((-Fraction(len(mine & its), len(mine | its)), index))
        if ranked and -min(ranked)[0] > threshold:
            del free[min(ranked)[1]]
    return len(runs) - len(free), len(free)


@given(
    predictions=st.lists(st.integers(0, ABSTAIN), min_size=1, max_size=12),
    truths=st.lists(st.tuples(st.integers(-2, 26), st.integers(0, 14), st.integers(0, CLASSES - 1)), max_size=5),
    threshold=st.sampled_from([Fraction(part, 12) for part in (0, 3, 4, 6, 8, 9)]),
)
def test_agrees_with_brute_force(predictions, truths, threshold):
    halves = [(start, start + length, label) for start, length, label in truths]
    seconds = [(start / 2, end / 2, label) for start, end, label in halves]
    assert count(predictions, seconds, float(threshold)) == brute_force(predictions, halves, threshold)


# ---- in the environment


def play(env, predictions, clip=0):
    env.reset(options={"clip": clip})
    for prediction in predictions:
        _, reward, _, _, info = env.step([0, prediction])
    return reward, info["true_positives"], info["false_positives"]


@pytest.mark.parametrize(
    ("predictions", "outcome"),
    [
        # Truths: run in 0..0.25, wave in 0.25..0.5. Frames stand for 0.25 s: -0.125..0.125, 0.125..0.375, ...
        ([0, 2, 3, 3], (-1.0, 0, 2)),  # both runs meet their truths by 1 / 3
        ([0, 0, 2, 2], (0.0, 1, 1)),  # run by 2 / 3, wave by 1 / 5
        ([3, 3, 3, 3], (0.0, 0, 0)),
    ],
)
def test_the_reward_counts_segments(untrimmed, predictions, outcome):
    env = gym.make("VideoGlimpse-v0", source=untrimmed, glimpses=1, matching="segment", overlap_threshold=0.4)
    assert play(env, predictions) == outcome


def test_a_trimmed_clip_is_one_segment_as_long_as_its_window(toy):
    env = gym.make("VideoGlimpse-v0", source=toy, glimpses=1, matching="segment", frames=2)
    assert play(env, [2, 2]) == (0.5, 1, 0)
    assert play(env, [2, 0]) == (-0.5 - 0.5, 0, 2)  # half of the clip is not more than half of it


@pytest.mark.parametrize(
    ("frames", "predictions", "outcome"),
    [
        (4, [2, 2, 0, 0], (-1.0, 0, 2)),
        (4, [0, 0, 2, 2], (-1.0, 0, 2)),
        (4, [0, 2, 2, 2], (0.0, 1, 1)),
        (4, [2, 2, 2, 0], (0.0, 1, 1)),
        (1, [2], (0.5, 1, 0)),
    ],
)
def test_it_does_not_matter_when_a_trimmed_clip_is_judged_rightly(toy, frames, predictions, outcome):
    env = gym.make("VideoGlimpse-v0", source=toy, glimpses=1, matching="segment", frames=frames)
    assert play(env, predictions) == outcome


@pytest.mark.parametrize(
    ("matching", "predictions", "shares"),
    [
        # Frames of 0.25 s: run is true at the first two, wave at the second and the third.
        ("frame", [0, 2, 1, 3], [0.5, 0.5, -1.5, 0.0]),
        ("frame", [3, 0, 0, 0], [0.0, 0.5, -1.5, -1.5]),
        ("segment", [0, 0, 2, 2], [0.0, 0.5, 0.0, -1.5]),
        ("segment", [0, 3, 1, 1], [-1.5, 0.0, 0.0, -1.5]),
        ("segment", [3, 3, 3, 3], [0.0] * 4),
    ],
)
def test_shares_of_the_reward_stand_at_frames_or_at_the_last_frames_of_runs(untrimmed, matching, predictions, shares):
    env = gym.make(
        "VideoGlimpse-v0", source=untrimmed, glimpses=1, matching=matching, overlap_threshold=0.4, eta=0.25,
        positive_reward=2.0, negative_reward=-2.0, look_cost=0.125,
    )  # fmt: skip
    reward, *_ = play(env, predictions)
    assert env.unwrapped.engine.shares().tolist() == [shares]
    assert reward == sum(shares) - 3 * 0.125


def test_segments_of_an_untrimmed_clip_end_with_its_window(untrimmed):
    # Frames 2 and 3 of run in 0..0.25 and wave in 0.25..0.5 seconds stand for 0.125..0.375 and 0.375..0.625.
    # So run is left with 0.125..0.25, half of the time of frame 2.
    env = gym.make("VideoGlimpse-v0", source=untrimmed, glimpses=1, matching="segment", frames=2, overlap_threshold=0.4)
    assert play(env, [0, 3]) == (0.5, 1, 0)
    assert play(env, [2, 2]) == (0.5, 1, 0)


def test_the_label_is_the_whole_clips_whichever_window_is_played(untrimmed):
    env = gym.make("VideoGlimpse-v0", source=untrimmed, glimpses=1, frames=1)
    _, info = env.reset(options={"clip": 0})  # the second frame alone, at 0.25 seconds
    assert info["label"].tolist() == [True, False, True]
