"""Confidence intervals of 95 % for tables: over seeds, over films, and over films and seeds together.

A table draws a conclusion from a difference only if its interval `excludes_zero`, and prints the `note` of an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit  # quantile of Student's t; scipy.stats takes a second to import

FEW_FILMS = 10
ROUNDING = 1e-12  # a smaller standard error comes from rounding
NO_SPREAD = "all values are equal: the interval is unknown"
ONE_VALUE = "there is one value: the interval is unknown"
ONE_FILM = "one film holds all or most videos: the interval is unknown"
SEEDS_NOT_COVERED = "a model has one seed: the interval does not cover its seeds"


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval."""

    mean: float
    half: float
    """Half the width of the interval; infinite if the values do not allow an interval."""
    note: str = ""
    """The reason why the interval is unknown, or the sources of error that it leaves out."""

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return abs(self.mean) > self.half

    def text(self, *, digits: int = 3, signed: bool = False) -> str:
        """Return "mean ± half", without "± half" if it is unknown; a half that rounds to zero is "<0.001"."""
        mean = round(self.mean, digits) + 0.0  # turns -0.0 into 0.0
        half = f"<{10**-digits:.{digits}f}" if self.half < 0.5 * 10**-digits else f"{self.half:.{digits}f}"
        return f"{mean:{'+' if signed else ''}.{digits}f}" + ("" if np.isinf(self.half) else f" ± {half}")

    def __str__(self) -> str:
        return self.text()


def mean_interval(values: ArrayLike, films: ArrayLike | None = None) -> Interval:
    """Return the mean of n values with Student's interval over seeds, or with an interval over films.

    Args:
        values: (n,), such as the accuracy of each seed, or a number for each video.
        films: (n,) the film of each video; without films, values are independent.

    Source: the cluster-robust error of a mean (Liang and Zeger, Biometrika 1986), corrected for unequal films by CR2
    (Bell and McCaffrey, Survey Methodology 2002). Degrees of freedom: one less than the number of equal films that
    would give the same variance if all videos of a film were alike.
    """
    numbers = np.asarray(values, np.float64)
    film = _film_numbers(np.arange(numbers.size) if films is None else films, numbers)
    note = _note_on_films(film) if films is not None else ONE_VALUE if numbers.size == 1 else ""
    return _interval(numbers.mean(), [_film_variance(numbers, film)], note)


def crossed_interval(first: ArrayLike, films: ArrayLike, second: ArrayLike | None = None) -> Interval:
    """Return the mean of `first`, or of `first` minus `second`, with an interval over films and seeds.

    Seeds of two models are independent samples, even if their numbers agree. The variance is that over films (of each
    video's difference, averaged over seeds), plus that over seeds of each model, minus the part that both contain,
    which comes from seeds that differ from film to film. It is at least the larger of the two.

    Args:
        first: (S1, V) a number for each seed and video, such as 1 for a correct prediction.
        films: (V,) the film of each video.
        second: (S2, V) the same videos, from another model; S2 may differ from S1.

    Raises:
        ValueError: there are no values, or the shapes do not agree.

    Source: two-way clustering (Cameron, Gelbach and Miller, J. Bus. Econ. Stat. 2011), but with the shared part from
    residuals without the effects of seeds and films, for few seeds. Degrees of freedom: Welch and Satterthwaite.
    """
    models = [np.atleast_2d(np.asarray(model, np.float64)) for model in (first, second) if model is not None]
    film = _film_numbers(films, *models)
    difference = models[0].mean(axis=0) - (models[1].mean(axis=0) if len(models) > 1 else 0.0)
    parts, shared = [_film_variance(difference, film)], 0.0
    for model in models:
        seeds = len(model)
        if seeds > 1:
            parts.append((float(model.mean(axis=1).var(ddof=1)) / seeds, seeds - 1))
            shared += _film_variance(model - model.mean(axis=0), film)[0] / (seeds * (seeds - 1))
    notes = [_note_on_films(film), SEEDS_NOT_COVERED if len(parts) <= len(models) else ""]
    return _interval(difference.mean(), parts, "; ".join(filter(None, notes)), shared)


def comparisons_sentence(count: int) -> str:
    """Return the sentence that says how many comparisons a table makes, and how many false ones chance may give."""
    comparisons = "1 comparison" if count == 1 else f"{count} comparisons"
    return f"This table makes {comparisons}; at 5 % each, chance alone gives up to {0.05 * count:.3g} false ones."


def _film_numbers(films: ArrayLike, *values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Number the films from 0, after a check against the values of each model, (V,) or (S, V)."""
    names = np.asarray(films)
    for array in values:
        if array.size == 0 or names.shape != array.shape[-1:]:
            raise ValueError(f"need one film for each of at least one video, got {array.shape} and {names.shape}")
    return np.unique(names, return_inverse=True)[1].ravel()


def _equal_films(film: NDArray[np.intp]) -> float:
    """Return how many films of equal size average out as well as these."""
    return float(len(film) ** 2 / np.square(np.bincount(film)).sum())


def _film_variance(values: NDArray[np.float64], film: NDArray[np.intp]) -> tuple[float, float]:
    """Return the variance of the mean of (V,) values over films and its degrees of freedom; (S, V) sums over rows."""
    share = np.bincount(film) / len(film)
    if len(share) == 1:
        return 0.0, 0.0
    rows = np.atleast_2d(values - values.mean(axis=-1, keepdims=True)) / len(film)
    sums = np.array([np.bincount(film, row) for row in rows])
    return float((np.square(sums) / (1 - share)).sum()), _equal_films(film) - 1


def _note_on_films(film: NDArray[np.intp]) -> str:
    equal = _equal_films(film)
    few = f"few or unequal films (they count as {equal:.1f} equal ones): the interval is a rough one"
    return ONE_FILM if equal < 2 else few if equal < FEW_FILMS else ""


def _interval(mean: float, parts: Sequence[tuple[float, float]], note: str, shared: float = 0) -> Interval:
    """Return Student's interval from variances with degrees of freedom, that over films first, less what they share."""
    (films, freedom), seeds = parts[0], sum(variance for variance, _ in parts[1:])
    variance = max(films + seeds - shared, films, seeds)
    if freedom < 1 or variance < ROUNDING**2:
        return Interval(float(mean), np.inf, note if freedom < 1 else "; ".join(filter(None, [NO_SPREAD, note])))
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    return Interval(float(mean), float(np.sqrt(variance) * stdtrit(freedom, 0.975)), note)
