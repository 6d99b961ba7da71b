"""Metrics against cases worked out by hand, scikit-learn, and ActivityNet's definition."""

import numpy as np
import pytest
import torch
from glimpse_agents.playing.metrics import (
    average_precision,
    event_delays,
    hit_at_k,
    mean_average_precision,
    mean_log_score,
    precision_and_recall,
    top_k_correct,
)
from sklearn.metrics import average_precision_score

RANKED = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
RIGHT = np.array([False, True, False, True, True])


def definition(scores, truths):
    """Return the interpolated AP by its definition: at the rank of each hit, the best precision there or later."""
    ranked = truths[np.argsort(-scores)]
    precisions = [ranked[: rank + 1].mean() for rank in range(len(ranked))]
    return sum(max(precisions[rank:]) for rank in np.flatnonzero(ranked)) / ranked.sum()


def test_precision_and_recall_by_hand():
    precision, recall = precision_and_recall(RANKED, RIGHT)
    assert precision.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2, 3 / 5])
    assert recall.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 1])


def test_average_precision_by_hand():
    # (1/2 + 1/2 + 3/5) / 3; interpolated, the best later precision is 3/5 at every recall
    assert average_precision(RANKED, RIGHT, interpolated=False) == pytest.approx(8 / 15)
    assert average_precision(RANKED, RIGHT, interpolated=True) == pytest.approx(3 / 5)


def test_order_of_the_videos_has_no_effect():
    order = np.array([3, 0, 4, 2, 1])
    assert average_precision(RANKED[order], RIGHT[order], interpolated=False) == pytest.approx(8 / 15)
    assert average_precision(RANKED[order], RIGHT[order], interpolated=True) == pytest.approx(3 / 5)


def test_videos_with_equal_scores_are_retrieved_together():
    scores = np.array([0.9, 0.5, 0.5, 0.5])
    for truths in ([True, True, False, False], [True, False, False, True]):
        # recall 1/2 at precision 1, then the other half at 2/4
        assert average_precision(scores, np.array(truths), interpolated=False) == pytest.approx(3 / 4)
        assert average_precision(scores, np.array(truths), interpolated=True) == pytest.approx(3 / 4)


@pytest.mark.parametrize("decimals", [1, 8])
def test_plain_average_precision_equals_scikit_learn(decimals):
    rng = np.random.default_rng(0)
    for _ in range(30):
        scores, truths = rng.random(40).round(decimals), rng.random(40) < 0.2
        truths[rng.integers(40)] = True
        assert average_precision(scores, truths, interpolated=False) == pytest.approx(
            average_precision_score(truths, scores)
        )


def test_interpolation_takes_the_best_later_precision():
    rng = np.random.default_rng(1)
    for _ in range(30):
        scores, truths = rng.random(25), rng.random(25) < 0.3
        truths[0] = True
        assert average_precision(scores, truths, interpolated=True) == pytest.approx(definition(scores, truths))


# Five videos, four classes: the third video has two, the fourth has none, and class d has no video.
TRUTHS = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]], np.bool_)
SCORES = np.array(
    [
        [0.70, 0.10, 0.15, 0.05],
        [0.40, 0.30, 0.20, 0.10],
        [0.10, 0.20, 0.60, 0.10],
        [0.45, 0.15, 0.35, 0.05],
        [0.25, 0.26, 0.09, 0.40],
    ]
)  # fmt: skip


def test_mean_leaves_out_absent_classes_and_counts_every_video():
    # a: videos 1 4 2 5 3 by score, hits at ranks 1 and 5: (1 + 2/5) / 2 = 0.7
    # b: videos 2 5 3 4 1, hit at rank 1: 1
    # c: videos 3 4 2 1 5, hits at ranks 1 and 5: 0.7; the fourth video, which has no class, ranks before the fifth
    expected = (0.7 + 1 + 0.7) / 3
    assert mean_average_precision(SCORES, TRUTHS, interpolated=False) == pytest.approx(expected)
    assert mean_average_precision(SCORES, TRUTHS, interpolated=True) == pytest.approx(expected)


def test_interpolated_and_plain_means_differ():
    scores, truths = np.stack([RANKED, -RANKED], 1), np.stack([RIGHT, RIGHT], 1)
    # reversed, the hits are at ranks 1, 2 and 4: (1 + 1 + 3/4) / 3 with and without interpolation
    assert mean_average_precision(scores, truths, interpolated=False) == pytest.approx((8 / 15 + 11 / 12) / 2)
    assert mean_average_precision(scores, truths, interpolated=True) == pytest.approx((3 / 5 + 11 / 12) / 2)


def test_any_class_of_a_video_counts_as_right():
    assert top_k_correct(SCORES, TRUTHS, 1).tolist() == [True, False, True, False, False]
    assert top_k_correct(SCORES, TRUTHS, 2).tolist() == [True, True, True, False, False]
    assert top_k_correct(SCORES, TRUTHS, 3).tolist() == [True, True, True, False, False]
    assert top_k_correct(SCORES, TRUTHS, 9).tolist() == [True, True, True, False, True]


def test_hits_are_a_share_of_the_videos_with_a_class():
    assert hit_at_k(SCORES, TRUTHS, 1) == pytest.approx(2 / 4)
    assert hit_at_k(SCORES, TRUTHS, 2) == pytest.approx(3 / 4)


def test_lowest_of_equal_classes_comes_first():
    scores, truths = np.array([[0.2, 0.4, 0.4], [0.2, 0.4, 0.4]]), np.array([[0, 1, 0], [0, 0, 1]], np.bool_)
    assert top_k_correct(scores, truths, 1).tolist() == [True, False]


def test_metrics_are_none_without_a_class():
    nothing = np.zeros_like(TRUTHS)
    assert hit_at_k(SCORES, nothing, 1) is None
    assert mean_average_precision(SCORES, nothing, interpolated=True) is None
    assert not top_k_correct(SCORES, nothing, 4).any()


def test_mean_log_score_by_hand():
    scores = np.array([[0.25, 0.125, 0.125], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    truths = np.array([[True, True, False], [True, False, False], [False, False, False]])
    # The first video: mean of ln 1/2 and ln 1/4. The second counts as 1e-8. The third has no class.
    assert mean_log_score(scores, truths) == pytest.approx((np.log(0.125) / 2 + np.log(1e-8)) / 2)
    assert mean_log_score(scores, np.zeros((3, 3), bool)) is None
    assert mean_log_score(np.zeros((1, 2)), np.array([[True, False]])) == pytest.approx(np.log(1e-8))


def test_no_prediction_on_background_costs_no_log_score():
    truths = np.array([[True, False]])
    silent, guessing = np.array([[0.2, 0.0]]), np.array([[0.6, 0.4]])  # sure in 2 of 10 frames; unsure in all frames
    assert mean_log_score(silent, truths) == 0 > mean_log_score(guessing, truths)


def test_an_event_is_found_by_the_first_look_while_it_lasts():
    lasts, looked = torch.zeros(2, 8, 2, dtype=torch.bool), torch.zeros(2, 8, 2, dtype=torch.bool)
    lasts[0, 1:4, 0] = lasts[0, 3:7, 1] = lasts[0, 5:7, 0] = True  # three events, two of which overlap each time
    lasts[1, 0:8, 1] = True
    looked[0, 4, 0] = looked[0, 5:7, 1] = looked[0, 6, 0] = looked[1, 3, 1] = True
    # The look at frame 5 comes after the first event of the first way.
    assert event_delays(lasts, looked).tolist() == [-1, 1, 2, 3]
    assert event_delays(torch.zeros(2, 8, 2, dtype=torch.bool), looked).tolist() == []
