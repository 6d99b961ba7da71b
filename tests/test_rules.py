"""The rules of an episode, apart from any episode."""

import numpy as np
import pytest

from glimpse_env.rules import EpisodeRules, classes_at
from glimpse_env.sources.protocol import Segment


def test_the_defaults_are_those_of_the_design():
    rules = EpisodeRules(frames=16)
    assert (rules.glimpses, rules.observation, rules.dtype, rules.matching) == (5, "glimpsed", "float32", "frame")
    assert (rules.eta, rules.positive_reward, rules.negative_reward) == (0.5, 1.0, -1.0)
    assert (rules.abstain, rules.jitter) == (False, False)


def test_the_reward_takes_counts_of_any_shape():
    rules = EpisodeRules(frames=4, eta=0.25, positive_reward=2.0, negative_reward=-4.0)
    # 0.25 * 2 = 0.5 for each true positive, 0.75 * -4 = -3 for each false one
    reward = rules.reward(np.array([[4, 0], [1, 2]]), np.array([[0, 4], [3, 0]]))
    np.testing.assert_array_equal(reward, [[2.0, -12.0], [-8.5, 1.0]])
    assert reward.dtype == np.float64


def test_looks_and_frames_cost_beside_the_reward():
    rules = EpisodeRules(frames=4, look_cost=0.5, frame_cost=0.25)
    # 0.5 * 2 - 0.5 * 1 = 0.5, less 0.5 a look and 0.25 for each frame after the first
    reward = rules.reward(np.array([2, 2]), np.array([1, 1]), np.array([3, 0]), np.array([4, 1]))
    np.testing.assert_array_equal(reward, [0.5 - 1.5 - 0.75, 0.5])


def test_a_class_is_true_from_its_start_to_its_end():
    times = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
    segments = (Segment(0.5, 1.0, 1), Segment(1.0, 1.6, 0), Segment(1.75, 1.75, 2), Segment(2.0, 9.0, 1))
    labels = classes_at(times, segments, 3)
    assert labels.dtype == np.bool_
    np.testing.assert_array_equal(
        labels,
        [
            [False, False, False],
            [False, True, False],
            [True, True, False],  # both ends are included, so two classes are true at 1.0
            [True, False, False],
            [False, True, False],  # nothing was sampled at 1.75, and a segment may end after the clip
        ],
    )


def test_a_segment_of_an_unknown_class_makes_no_class_true():
    assert not classes_at(np.arange(3.0), (Segment(0.0, 2.0, -1),), 2).any()


def test_a_frame_on_the_border_is_in_the_segment_whatever_its_seconds_round_to():
    times = 0.1 + np.arange(4) / 10  # 0.1 + 0.2 is 0.30000000000000004
    labels = classes_at(times, (Segment(0.0, 0.3, 0), Segment(times[3] + 1e-12, 1.0, 1)), 2)
    assert times[2] > 0.3
    np.testing.assert_array_equal(labels, [[True, False], [True, False], [True, False], [False, True]])


def test_no_segments_are_background():
    assert not classes_at(np.arange(3.0), (), 2).any()


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (
            {"observation": "Cube"},
            ValueError,
            r"observation must be one of \('glimpsed', 'cube', 'slices', 'blind'\), got 'Cube'",
        ),
        ({"dtype": np.float32}, ValueError, r"dtype must be one of \('float32', 'float16'\), got <class"),
        ({"matching": "iou"}, ValueError, r"matching must be one of \('frame', 'segment'\), got 'iou'"),
        ({"frames": 0}, ValueError, "frames must be at least 1 and at most 1000000, got 0"),
        ({"frames": -3}, ValueError, "frames must be at least 1 and at most 1000000, got -3"),
        ({"frames": 4.0}, TypeError, "frames must be an integer, got 4.0 of type float"),
        ({"glimpses": "5"}, TypeError, "glimpses must be an integer, got '5' of type str"),
        ({"eta": True}, TypeError, "eta must be a number, got True"),
        ({"eta": 2}, ValueError, r"eta must lie in \[0, 1\], got 2"),
        ({"positive_reward": -1.0}, ValueError, r"positive_reward \(R\+\) must be positive and finite, got -1.0"),
        ({"positive_reward": np.inf}, ValueError, r"positive_reward \(R\+\) must be positive and finite, got inf"),
        ({"positive_reward": np.nan}, ValueError, r"positive_reward \(R\+\) must be positive and finite, got nan"),
        ({"negative_reward": 1.0}, ValueError, r"negative_reward \(R-\) must be negative and finite, got 1.0"),
        ({"negative_reward": -np.inf}, ValueError, r"negative_reward \(R-\) must be negative and finite, got -inf"),
    ],
)
def test_values_out_of_range(values, error, message):
    with pytest.raises(error, match=message):
        EpisodeRules(**{"frames": 4, **values})


@pytest.mark.parametrize("eta", [0, 1, 0.0, 1.0])
def test_the_ends_of_etas_range_are_in_it(eta):
    assert EpisodeRules(frames=4, eta=eta).eta == eta


@pytest.mark.parametrize("glimpses", [0, 10, -1])
def test_as_many_glimpses_as_there_are_cells(toy, glimpses):
    EpisodeRules(frames=4, glimpses=9).check_source(toy)
    EpisodeRules(frames=4, glimpses=1).check_source(toy)
    with pytest.raises(ValueError, match=f"glimpses must be 1 to 9, the cells of a 3 x 3 .* got {glimpses}"):
        EpisodeRules(frames=4, glimpses=glimpses).check_source(toy)
