"""Detection: segments of predictions and scores, and their average precision, worked out by hand and by brute force."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from clip_toys import UnevenSource
from glimpse_agents import evaluate
from glimpse_agents.playing.detection import (
    ACTIVITYNET_OVERLAPS,
    THUMOS_OVERLAPS,
    Detection,
    activitynet_map,
    detections_of_runs,
    detections_of_scores,
    segments_above,
    thumos_map,
)
from glimpse_agents.playing.evaluation import Evaluation
from hypothesis import given
from hypothesis import strategies as st

from glimpse_env import Segment, SlidingWindows

RATE = 2.0  # frames a second: a frame stands for half a second


def found(*detections):
    """Return detections of (start, end, label, score)."""
    return [Detection(Segment(start, end, label), score) for start, end, label, score in detections]


def true(*segments):
    return [Segment(*segment) for segment in segments]


# ---- segments


def test_a_run_of_equal_predictions_is_scored_by_its_mean_score():
    scores = np.array([[0.9, 0.1], [0.6, 0.2], [0.3, 0.3], [0.0, 0.5]], np.float32)
    runs = detections_of_runs(np.array([0, 0, 2, 1]), scores, np.arange(4) / RATE, frames_per_second=RATE)
    assert [one.segment for one in runs] == [(-0.25, 0.75, 0), (1.25, 1.75, 1)]
    assert [one.score for one in runs] == pytest.approx([0.75, 0.5])


def test_classes_reach_a_threshold_independently():
    scores = np.array([[0.5, 0.4], [0.5, 0.5], [0.2, 0.7]], np.float32)
    segments = segments_above(0.5, scores, np.arange(3) / RATE, frames_per_second=RATE)
    assert segments == [(-0.25, 0.75, 0), (0.25, 1.25, 1)]
    assert segments_above(0.8, scores, np.arange(3) / RATE, frames_per_second=RATE) == []


def test_scores_of_segments_are_contrasts_and_worse_ones_that_overlap_are_left_out():
    # Thresholds give frames 1..4 (0.3), 2..3 (0.6) and 5..9 (no frame between 0.3 and 0.6 of the second class).
    one = [0.0, 0.4, 0.8, 0.7, 0.3, 0.0, 0.0, 0.0, 0.1, 0.1]
    other = [0.0, 0.0, 0.0, 0.2, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9]
    scores = np.array([one, other]).T
    kept = detections_of_scores(scores, np.arange(10) / RATE, frames_per_second=RATE, thresholds=(0.3, 0.6))
    # Frames 1..4: (0.4 + 0.8 + 0.7 + 0.3) / 4 minus the mean of frames 0 and 5. Frames 2..3: 0.75 minus the mean of
    # 0.4 and 0.3; it shares half of the other's time, no more, and so both stay. Frames 5..9: 0.9 minus frame 4.
    assert [one.segment for one in kept] == [(2.25, 4.75, 1), (0.25, 2.25, 0), (0.75, 1.75, 0)]
    assert [one.score for one in kept] == pytest.approx([0.8, 0.55, 0.4])
    kept = detections_of_scores(scores[:5], np.arange(5) / RATE, frames_per_second=RATE, thresholds=(0.3, 0.35))
    # Frames 1..4: 0.55 minus frame 0. Frames 1..3: 1.9 / 3 minus the mean of 0 and 0.3, is worse, and overlaps by 3/4.
    assert [(one.segment, round(one.score, 3)) for one in kept] == [((0.25, 2.25, 0), 0.55)]


def test_a_segment_of_the_whole_video_has_its_mean_score():
    kept = detections_of_scores(np.full((4, 1), 0.6), np.arange(4) / RATE, frames_per_second=RATE)
    assert [(one.segment, round(one.score, 9)) for one in kept] == [((-0.25, 1.75, 0), 0.6)]


# ---- average precision


def test_overlaps_of_the_benchmarks():
    assert ACTIVITYNET_OVERLAPS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    assert THUMOS_OVERLAPS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def test_average_precisions_by_hand():
    # Two videos, three true segments. In order of score: right in video 2, wrong (no true segment there), right in
    # video 1 with temporal IoU 0.8, a duplicate. Recalls 1/3, 1/3, 2/3, 2/3; precisions 1, 1/2, 2/3, 1/2.
    detections = [found((0, 8, 0, 0.6), (0, 9, 0, 0.5)), found((0, 5, 0, 0.9), (7, 9, 0, 0.7))]
    truths = [true((0, 10, 0)), true((0, 5, 0), (20, 30, 0))]
    assert activitynet_map(detections, truths, (0.5, 0.8)) == pytest.approx([(1 + 2 / 3) / 3] * 2)
    # At 0.85 and 0.9 the better score overlaps too little, and the duplicate is right: precisions 1, 1/2, 1/3, 1/2.
    assert activitynet_map(detections, truths, (0.85, 0.9)) == pytest.approx([(1 + 1 / 2) / 3] * 2)
    assert activitynet_map(detections, truths, (0.95,)) == pytest.approx([1 / 3])
    # In THUMOS the true segment takes the detection that it overlaps most, 0.9 of it, whatever the scores.
    assert thumos_map(detections, truths, (0.5,)) == pytest.approx([(1 + 2 / 4) / 3])


def test_interpolated_and_plain_precision():
    # Right at ranks 1, 3 and 4: plain 1 + 2/3 + 3/4, interpolated 1 + 3/4 + 3/4.
    detections = [found((0, 1, 0, 0.9), (9, 10, 0, 0.8), (2, 3, 0, 0.7), (4, 5, 0, 0.6))]
    truths = [true((0, 1, 0), (2, 3, 0), (4, 5, 0))]
    assert activitynet_map(detections, truths, (0.5,)) == pytest.approx([2.5 / 3])
    assert thumos_map(detections, truths, (0.5,)) == pytest.approx([(1 + 2 / 3 + 3 / 4) / 3])


def test_activitynet_takes_an_overlap_that_is_reached_and_thumos_one_that_is_exceeded():
    detections, truths = [found((0, 5, 0, 0.9))], [true((0, 10, 0))]
    assert activitynet_map(detections, truths, (0.5, 0.55)).tolist() == [1, 0]
    assert thumos_map(detections, truths, (0.4, 0.5)).tolist() == [1, 0]


def test_a_detection_takes_the_next_best_true_segment_if_the_best_is_taken():
    detections, truths = [found((0, 10, 0, 0.9), (0, 9, 0, 0.8))], [true((0, 10, 0), (0, 7, 0))]
    assert activitynet_map(detections, truths, (0.75, 0.8)).tolist() == [1, 0.5]  # 7/9 of the second


def test_detections_of_equal_scores_are_retrieved_together():
    detections, truths = [found((5, 6, 0, 0.5), (0, 1, 0, 0.5))], [true((0, 1, 0))]
    assert activitynet_map(detections, truths, (0.5,)).tolist() == [0.5]
    assert thumos_map(detections, truths, (0.5,)).tolist() == [0.5]
    assert thumos_map([detections[0][::-1]], truths, (0.5,)).tolist() == [0.5]


def test_the_mean_is_over_classes_that_are_true_somewhere():
    detections = [found((0, 1, 0, 0.9), (0, 1, 2, 0.9)), []]  # class 2 is true nowhere, class 1 is never found
    truths = [true((0, 1, 0)), true((0, 1, 1))]
    assert activitynet_map(detections, truths, (0.5,)).tolist() == [0.5]
    assert activitynet_map([[], []], truths, (0.5,)).tolist() == [0]
    assert activitynet_map(detections, [[], []]) is None
    assert thumos_map(detections, [[], []]) is None


def brute_force(detections, truths, overlap, *, thumos):
    """Return the mean average precision in exact fractions, from a list of pairs ranked by score or by truth."""
    values = []
    for label in sorted({segment.label for video in truths for segment in video}):
        ranked = sorted(
            (-one.score, video, place)
            for video, own in enumerate(detections)
            for place, one in enumerate(own)
            if one.segment.label == label
        )
        wanted = sorted((video, *one) for video, own in enumerate(truths) for one in own if one.label == label)
        pairs = []
        for rank, (_, video, place) in enumerate(ranked):
            start, end, _ = detections[video][place].segment
            for number, (other, first, last, _) in enumerate(wanted):
                shared = max(0, min(end, last) - max(start, first)) if other == video else 0
                iou = Fraction(shared, (end - start) + (last - first) - shared)
                if iou > overlap or (iou == overlap and not thumos):
                    pairs.append((number, -iou, rank) if thumos else (rank, -iou, number))
        taken, right = set(), set()
        for one, _, other in sorted(pairs):
            if one not in taken and other not in right:
                taken.add(one)
                right.add(other)
        hits = sorted(right if thumos else taken)
        precisions = [Fraction(count, rank + 1) for count, rank in enumerate(hits, 1)]
        if not thumos:
            precisions = [max(precisions[place:]) for place in range(len(precisions))]
        values.append(sum(precisions, Fraction(0)) / len(wanted))
    return float(sum(values) / len(values)) if values else None


spans = st.tuples(st.integers(0, 8), st.integers(1, 6), st.integers(0, 1))


@given(
    found_spans=st.lists(st.lists(spans, max_size=6), min_size=2, max_size=2),
    true_spans=st.lists(st.lists(spans, max_size=4), min_size=2, max_size=2),
    order=st.randoms(use_true_random=False),
    overlap=st.sampled_from([Fraction(part, 10) for part in (1, 3, 5, 7)]),
)
def test_agrees_with_brute_force(found_spans, true_spans, order, overlap):
    scores = list(range(1, 13))  # all different
    order.shuffle(scores)
    detections = [found(*((a, a + n, label, scores.pop()) for a, n, label in video)) for video in found_spans]
    truths = [true(*((a, a + n, label) for a, n, label in video)) for video in true_spans]
    for measure, thumos in ((activitynet_map, False), (thumos_map, True)):
        ours = measure(detections, truths, (float(overlap),))
        expected = brute_force(detections, truths, overlap, thumos=thumos)
        assert ours is expected is None or ours.tolist() == pytest.approx([expected])


# ---- in an evaluation


class Reader:
    """An agent that answers class p with score q in a frame whose first feature is p + q."""

    def __call__(self, seen):
        value = seen[:, 0, 0, 0].astype(float) if seen.ndim == 4 else seen[:, 0, 0].astype(float)
        answer, score = value.astype(int), value % 1
        scores = np.zeros((len(seen), 3))
        scores[np.arange(len(seen)), answer] = score
        scores[:, 2] = 1 - scores[:, :2].sum(1)
        return np.stack([np.zeros_like(answer), answer], 1), scores


def untrimmed(lengths, truths, values):
    """Return videos of two classes at two frames a second; the features of a frame are all one value."""
    longest = max(lengths)
    rows = np.array([[*own, *[0.0] * (longest - len(own))] for own in values], np.float32)
    return UnevenSource(
        features=np.broadcast_to(rows[:, :, None, None, None], (len(lengths), longest, 3, 3, 4)).copy(),
        labels=np.zeros(len(lengths), np.int64), class_names=("a", "b"), frames_per_second=RATE,
        lengths=tuple(lengths), truths=tuple(tuple(true(*own)) for own in truths),
    )  # fmt: skip


NOTHING = 2.0
VALUES = [
    [NOTHING, 0.75, 0.75, 0.75, NOTHING, 1.5, NOTHING, NOTHING],
    [1.25, 1.25, 1.25, 1.25, NOTHING, NOTHING, 0.5, 0.5],
]
TRUTHS = [[(0.25, 1.75, 0)], [(-0.25, 1.25, 1), (8.0, 9.0, 0)]]


def played(source, **arguments):
    return evaluate(Reader(), source, observation="slices", glimpses=1, **arguments)


def test_an_evaluation_measures_the_segments_of_whole_videos():
    measured = played(untrimmed([8, 8], TRUTHS, VALUES), frames=8, num_envs=3, eta=0.8)
    # Predicted: a in frames 1..3 (right) and b in frame 5 of the first video; b in frames 0..3 (3/4 of it is right) and
    # a in frames 6..7 of the second. The second true a lies after the frames.
    assert (measured.segment_precision, measured.segment_recall) == (0.5, pytest.approx(2 / 3))
    assert measured.segment_reward == pytest.approx(0.8 - 0.2)  # one right and one wrong in each
    assert measured.segments == 1.5
    # a: scores 0.75 (right) and 0.5, one of two found: 0.5. b: 0.5 (wrong) and 0.25: 0.5, up to a temporal IoU of 0.75.
    assert measured.detection_map_at_50 == pytest.approx(0.5)
    assert measured.detection_map == pytest.approx((6 * 0.5 + 4 * 0.25) / 10)
    assert measured.thumos_map == pytest.approx(0.5)
    # Contrasts rank the segments in the same way.
    assert measured.score_detection_map == pytest.approx((6 * 0.5 + 4 * 0.25) / 10)
    # Thresholds 0.1 and 0.2 give all four segments, 0.3 to 0.5 lose the right b, 0.6 and 0.7 keep the right a alone.
    assert measured.segment_counts == ((1, 1),) * 2 + ((0.5, 1),) * 3 + ((0.5, 0),) * 2 + ((0, 0),) * 2
    assert measured.true_positives + measured.false_positives == 5  # the environment counted frames


def test_segments_are_counted_as_the_environment_counts_them():
    source = untrimmed([8, 8], TRUTHS, VALUES)
    for frames in (8, 5, 3):
        measured = played(source, frames=frames, matching="segment", overlap_threshold=0.3, eta=0.3)
        assert measured.segment_reward == pytest.approx(measured.reward)
        right, wrong = measured.true_positives, measured.false_positives
        assert measured.segment_precision == pytest.approx(right / (right + wrong))
        assert measured.segment_recall == pytest.approx(right / measured.segments)


def test_repeated_frames_of_a_short_clip_count_once():
    source = untrimmed([8, 3], [TRUTHS[0], [(-0.25, 1.25, 1)]], [VALUES[0], [1.25, 1.25, 1.25]])
    measured = played(source, frames=8)
    assert (measured.segment_precision, measured.segment_recall) == (pytest.approx(2 / 3), 1.0)
    assert measured.detection_map == pytest.approx((1 + 0.5) / 2)


@pytest.mark.parametrize("num_envs", [1, 4])
def test_windows_are_joined_before_segments_are_measured(num_envs):
    windows = SlidingWindows(source=untrimmed([8, 8], TRUTHS, VALUES), window_seconds=2.0, stride_seconds=1.0)
    joined, whole = played(windows, num_envs=num_envs), played(windows.source, frames=8)
    names = [field.name for field in dataclasses.fields(Evaluation) if field.default is None]
    assert {name: getattr(joined, name) for name in names} == {name: getattr(whole, name) for name in names}
    assert joined.segment_precision == 0.5


class Counter:
    """An agent that answers by the number of the frame in its episode alone."""

    def __init__(self, *answers):
        self.answers = answers

    def reset(self, num_envs):
        self.frame = -1

    def __call__(self, seen):
        self.frame += 1
        answer, score = self.answers[self.frame]
        scores = np.zeros((len(seen), 3))
        scores[:, answer], scores[:, 2] = score, 1 - score
        return np.tile([0, answer], (len(seen), 1)), scores


@pytest.mark.parametrize(
    ("answers", "stride", "segments"),
    [
        # Frames 2 to 5 are in two windows that disagree: a has 0.9 / 2, b 0.6 / 2.
        ([(0, 0.9), (0, 0.9), (1, 0.6), (1, 0.6)], 1.0, [(-0.25, 2.75, 0), (2.75, 3.75, 1)]),
        # Of frame 1, one window says each, and b scores more; of later frames one at most says b, which scores more.
        ([(1, 0.9), (0, 0.2), (0, 0.2), (0, 0.2)], 0.5, [(-0.25, 0.75, 1), (0.75, 3.75, 0)]),
    ],
)
def test_windows_vote_and_the_better_score_decides_ties(answers, stride, segments):
    source = untrimmed([8], [segments], [[NOTHING] * 8])
    windows = SlidingWindows(source=source, window_seconds=2.0, stride_seconds=stride)
    assert evaluate(Counter(*answers), windows, glimpses=1).detection_map == 1.0


def test_trimmed_clips_have_no_detection_measures(toy):
    class Mute:
        def __call__(self, seen):
            return np.zeros((len(seen), 2), np.int64)

    measured = evaluate(Mute(), toy, glimpses=1)
    assert measured.detection_map is measured.segment_counts is None


def test_an_agent_that_says_nothing_has_no_precision():
    measured = played(untrimmed([8, 8], TRUTHS, [[NOTHING] * 8] * 2), frames=8)
    assert (measured.segment_precision, measured.segment_recall, measured.detection_map) == (None, 0.0, 0.0)
    assert measured.segment_reward == 0.0


def test_an_evaluation_without_detection_measures_can_be_read():
    measured = played(untrimmed([8, 8], TRUTHS, VALUES), frames=8)
    values = dataclasses.asdict(measured)
    assert Evaluation.from_json(values) == measured
    older = {name: value for name, value in values.items() if name not in ("segments", "detection_map")}
    assert Evaluation.from_json(older) == dataclasses.replace(measured, segments=None, detection_map=None)
    with pytest.raises(ValueError, match=r"differs from this version's in accuracy, mood$"):
        Evaluation.from_json({name: value for name, value in (older | {"mood": 1}).items() if name != "accuracy"})
