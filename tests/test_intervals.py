"""Confidence intervals over seeds, over films, and over both."""

import numpy as np
import pytest
from glimpse_agents.tables.intervals import (
    NO_SPREAD,
    ONE_FILM,
    ONE_VALUE,
    SEEDS_NOT_COVERED,
    Interval,
    comparisons_sentence,
    crossed_interval,
    mean_interval,
)
from scipy import stats

VIDEOS, FILMS = 268, 119  # of J-HMDB's first test split
SEED_EFFECTS = (0.0, 0.009, 0.017, 0.026)  # standard deviations of a seed's effect on a model's accuracy


# ---- the text of an interval


@pytest.mark.parametrize(
    ("interval", "options", "expected"),
    [
        (Interval(0.0421, 0.0304), {"signed": True}, "+0.042 ± 0.030"),
        (Interval(41.26, 2.04), {"digits": 1}, "41.3 ± 2.0"),
        (Interval(-0.5, np.inf, NO_SPREAD), {}, "-0.500"),
        (Interval(-0.00001, 0.1), {"signed": True}, "+0.000 ± 0.100"),
        (Interval(0.5, 0.0004), {}, "0.500 ± <0.001"),
        (Interval(0.5, 0.0006), {}, "0.500 ± 0.001"),
        (Interval(np.nan, np.nan), {}, "nan ± nan"),
    ],
)
def test_text(interval, options, expected):
    assert interval.text(**options) == expected
    assert str(interval) == interval.text()


@pytest.mark.parametrize(
    ("mean", "half", "excludes"),
    [(0.2, 0.1, True), (-0.2, 0.1, True), (0.1, 0.1, False), (0.9, np.inf, False), (np.nan, np.nan, False)],
)
def test_excludes_zero(mean, half, excludes):
    assert Interval(mean, half).excludes_zero is excludes


@pytest.mark.parametrize(
    ("count", "start"),
    [
        (1, "This table makes 1 comparison; at 5 % each, chance alone gives up to 0.05 false"),
        (17, "This table makes 17 comparisons; at 5 % each, chance alone gives up to 0.85 false"),
        (40, "This table makes 40 comparisons; at 5 % each, chance alone gives up to 2 false"),
    ],
)
def test_number_of_comparisons(count, start):
    assert comparisons_sentence(count).startswith(start)


# ---- one mean


def test_interval_over_seeds_is_students():
    # mean 0.5, standard deviation 0.1, standard error 0.1 / sqrt(3) = 0.0577; t(0.975, 2) = 4.3027
    interval = mean_interval([0.4, 0.5, 0.6])
    assert (interval.mean, interval.half) == pytest.approx((0.5, 0.0577350 * 4.302653), rel=1e-5)
    assert interval.note == ""


def test_interval_over_equal_films_is_that_of_their_means():
    films, means = np.repeat(np.arange(12), 3), np.linspace(0.1, 0.9, 12)
    values = np.repeat(means, 3) + np.tile([-0.1, 0.0, 0.1], 12)
    clustered, plain = mean_interval(values, films), mean_interval(means)
    assert (clustered.mean, clustered.half) == pytest.approx((plain.mean, plain.half))
    assert clustered.note == ""


def test_interval_over_unequal_films_by_hand():
    # mean 0.5; film sums of deviations 1.5, -1, -0.5, their shares 1/2, 1/3, 1/6 of 6 videos
    # variance (2.25 / (1/2) + 1 / (2/3) + 0.25 / (5/6)) / 36 = 6.3 / 36; like 36 / (9 + 4 + 1) = 2.5714 equal films
    interval = mean_interval([1, 1, 1, 0, 0, 0], ["a", "a", "a", "b", "b", "c"])
    assert (interval.mean, interval.half) == pytest.approx((0.5, np.sqrt(6.3 / 36) * stats.t.ppf(0.975, 1.571429)))
    assert "count as 2.6 equal ones" in interval.note


def test_films_are_few_below_ten_equal_ones():
    values = np.arange(30) % 7
    assert "few or unequal" in mean_interval(values[:27], np.arange(27) // 3).note
    assert mean_interval(values, np.arange(30) // 3).note == ""


@pytest.mark.parametrize(
    ("values", "films", "note"),
    [
        ([0.5, 0.5, 0.5], None, NO_SPREAD),
        ([0.9 - 0.5, 0.8 - 0.4, 0.4], None, NO_SPREAD),  # equal but for rounding
        ([0.5], None, ONE_VALUE),
        ([1.0, 2.0], ["a", "a"], ONE_FILM),
        (np.arange(34) % 2, [0, 1, 2, 2] + [3] * 30, ONE_FILM),
    ],
)
def test_unknown_intervals_are_infinite_and_say_why(values, films, note):
    interval = mean_interval(values, films)
    assert (interval.half, interval.note, interval.excludes_zero) == (np.inf, note, False)
    assert "±" not in interval.text()


def test_a_large_film_among_small_ones_is_covered():
    """With as many degrees of freedom as films, the interval would cover the mean in 75 % of these experiments."""
    rng = np.random.default_rng(1)
    films = np.concatenate([np.arange(20), np.full(20, 20)])
    intervals = [mean_interval(rng.normal(size=21)[films], films) for _ in range(1000)]
    assert 0.94 < np.mean([not interval.excludes_zero for interval in intervals]) < 0.99


# ---- films and seeds


def test_crossed_interval_of_one_model_by_hand():
    # seeds 0.75 and 0.25 over four films: variance over seeds 0.125 / 2 = 0.0625, 1 degree of freedom
    # videos (1, 0.5, 0.5, 0) over seeds: variance over films (1/6) / 4 = 0.041667, 3 degrees of freedom
    # residuals of the first seed (-0.25, 0.25, 0.25, -0.25): its variance 4/3 * 0.25 / 16 = 0.020833, twice, / (2 * 1)
    interval = crossed_interval([[1, 1, 1, 0], [1, 0, 0, 0]], [0, 1, 2, 3])
    variance = 0.041667 + 0.0625 - 0.020833
    freedom = variance**2 / (0.041667**2 / 3 + 0.0625**2 / 1)
    assert (interval.mean, interval.half) == pytest.approx(
        (0.5, np.sqrt(variance) * stats.t.ppf(0.975, freedom)), rel=1e-4
    )
    assert "count as 4.0 equal ones" in interval.note


def test_crossed_interval_adds_the_seeds_of_both_models():
    """Without residuals nothing is shared: the variances over films and over the seeds of each model add up."""
    first = np.add.outer([0.0, 0.1, 0.2], np.arange(12.0))
    second = np.add.outer([0.3, 0.5], np.zeros(12))
    films, one, two = np.var(np.arange(12), ddof=1) / 12, 0.01 / 3, 0.02 / 2
    freedom = (films + one + two) ** 2 / (films**2 / 11 + one**2 / 2 + two**2 / 1)
    interval = crossed_interval(first, range(12), second)
    assert (interval.mean, interval.note) == (pytest.approx(5.5 + 0.1 - 0.4), "")
    assert interval.half == pytest.approx(np.sqrt(films + one + two) * stats.t.ppf(0.975, freedom))
    mirrored = crossed_interval(second, range(12), first)
    assert (mirrored.mean, mirrored.half) == pytest.approx((-interval.mean, interval.half))


def test_order_of_seeds_and_videos_does_not_matter():
    rng = np.random.default_rng(2)
    first, second, films = rng.random((3, 40)) < 0.6, rng.random((4, 40)) < 0.5, rng.integers(0, 20, 40)
    order = rng.permutation(40)
    one = crossed_interval(first, films, second)
    other = crossed_interval(first[::-1][:, order], films[order], second[[2, 0, 3, 1]][:, order])
    assert (one.mean, one.half) == pytest.approx((other.mean, other.half))


def test_one_seed_gives_the_interval_over_films_and_says_so():
    rng = np.random.default_rng(3)
    first, second, films = rng.random(60) < 0.6, rng.random((1, 60)) < 0.5, np.arange(60) // 3
    interval = crossed_interval(first, films, second)
    of_films = mean_interval(1.0 * first - second[0], films)
    assert (interval.mean, interval.half) == pytest.approx((of_films.mean, of_films.half))
    assert interval.note == SEEDS_NOT_COVERED
    assert crossed_interval(first, films, rng.random((3, 60)) < 0.5).note == SEEDS_NOT_COVERED


def test_crossed_interval_is_at_least_each_of_its_parts():
    """Seeds that differ in videos but not in accuracy take nothing from the variance over films."""
    values = [[1, 0] * 8, [0, 1] * 8, [1, 1, 0, 0] * 4]
    films = mean_interval(np.mean(values, axis=0), range(16))
    assert crossed_interval(values, range(16)).half == pytest.approx(films.half)


def test_models_that_agree_in_every_video_have_no_interval():
    interval = crossed_interval(np.ones((3, 20)), range(20), np.ones((3, 20)))
    assert (interval.mean, interval.half, interval.note) == (0.0, np.inf, NO_SPREAD)
    interval = crossed_interval([[1, 0, 1]], [0, 0, 0], [[0, 0, 0], [1, 0, 0]])
    assert (interval.half, interval.note) == (np.inf, f"{ONE_FILM}; {SEEDS_NOT_COVERED}")


@pytest.mark.parametrize(
    ("first", "films", "second"),
    [
        ([[1, 0, 1]], [0, 1], None),
        ([[1, 0, 1]], [0, 1, 2], [[1, 0]]),
        ([[1, 0, 1]], [[0, 1, 2]], None),
        (np.ones((0, 3)), [0, 1, 2], None),
    ],
)
def test_shapes_that_do_not_agree_are_refused(first, films, second):
    with pytest.raises(ValueError, match="need one film for each"):
        crossed_interval(first, films, second)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="at least one video"):
        mean_interval([])


# ---- false positives


def simulate(rng, films, *, experiments, seeds, seed_effect):
    """Draw (experiments, seeds, videos) of correct predictions for two models that are equally accurate on average.

    A video is as hard for both models; half of the variance is that of its film. A seed moves the accuracy of its model
    by `seed_effect` (a standard deviation), and changes which videos are correct.
    """
    by_film = np.eye(FILMS)[:, films]
    shape = (experiments, 2 * seeds)

    def film_and_video(*rows):
        return np.sqrt(0.5) * (rng.normal(size=(*rows, FILMS)) @ by_film + rng.normal(size=(*rows, VIDEOS)))

    spread = np.sqrt(1 + 0.4**2)
    moved = seed_effect * spread / stats.norm.pdf(0) * rng.normal(size=(*shape, 1))
    correct = film_and_video(experiments, 1) + 0.4 * film_and_video(*shape) + moved > 0
    return correct[:, :seeds], correct[:, seeds:]


@pytest.mark.parametrize("seed_effect", SEED_EFFECTS)
def test_equal_models_seldom_differ_by_more_than_the_interval(seed_effect):
    """An interval over films alone excludes zero far too often when seeds differ; the crossed one does not."""
    rng = np.random.default_rng(4)
    films = np.concatenate([np.arange(FILMS), rng.integers(0, FILMS, VIDEOS - FILMS)])
    models = simulate(rng, films, experiments=600, seeds=3, seed_effect=seed_effect)
    pairs = list(zip(*models, strict=True))
    crossed = np.mean([crossed_interval(first, films, second).excludes_zero for first, second in pairs])
    alone = np.mean([mean_interval(a.mean(0) - b.mean(0), films).excludes_zero for a, b in pairs])
    assert 0.01 <= crossed <= 0.05
    if seed_effect == 0.0:
        assert 0.03 <= alone <= 0.07
    if seed_effect >= 0.017:
        assert 0.1 <= alone <= 0.24
