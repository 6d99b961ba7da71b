"""Estimate how much choosing cells could gain on a source, before any policy is trained on it.

    pip install -e ".[agents]"
    python examples/headroom.py --source stores/jhmdb --glimpses 1

A logistic classifier learns a clip's class from the mean of m random cells of one of its frames. It then classifies
every test clip, by the mean of its frames' softmaxes, from cells that fixed rules choose. As in an episode, frame 1 is
seen whole (by the same classifier), and the whole frame before decides the cells of a frame, as with the observation
"cube":

- random: random cells, over several draws; all other rules are compared with it;
- fixed: the cells that were best on average on the training clips, whatever their content;
- content: the cells with the largest predicted value. A linear regression from a slice predicts the log-score of the
  label by the same cell in the next frame. Its targets come from a classifier that was not fitted to the clip.
  REINFORCE has to learn the same from returns;
- content, new: the same among the cells that were chosen least often before in the clip;
- confident: the cells with the most confident classification, right or wrong;
- actor: random cells of the actor, if the source knows its place;
- detector: the cells that look most like the actor's in the frame before, by a logistic classifier. It is fitted to the
  actor's place, which REINFORCE is not given, and shows whether the features suffice to find the actor;
- all: the mean of all cells, by a classifier of its own;
- hindsight: the cells that score the label best in the frame itself, which no policy can know: close to an upper bound.

Focus is the share of frames with a look on the actor. The validation split chooses the penalties. Intervals are
clustered by source film.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
from common import installed_by
from numpy.typing import NDArray

from glimpse_env import ClipSource, open_source

with installed_by('pip install -e ".[agents]"'):
    import torch
    import torch.nn.functional as F
    import tyro
    from glimpse_agents.playing.evaluation import film_of_video
    from glimpse_agents.playing.linear import fit_layer, zero_layer
    from glimpse_agents.tables.intervals import Interval, mean_interval
    from torch import Tensor
    from tqdm.auto import tqdm

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
SAMPLES = 24  # (frame, cells) of each training clip
DRAWS = 5  # of random cells


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compare rules that choose cells, with a linear classifier."""

    source: str
    """Path of a feature store."""
    fold: int = 1
    """Number of the official split of the data set."""
    glimpses: int = 1
    """m, the number of cells chosen in a frame."""
    seed: int = 1
    """Seed of every random choice."""


@dataclass(frozen=True)
class Samples:
    """Training samples: for each of n draws, slices of one frame and of the frame before it."""

    clips: NDArray[np.int64]  # (n,)
    labels: Tensor  # (n,)
    looks: Tensor  # (n, D) mean of m random cells
    wholes: Tensor  # (n, D) mean of all cells
    cells: Tensor  # (n,) the first of the random cells
    slices: Tensor  # (n, D) at that cell
    before: Tensor  # (n, D) at the same cell in the frame before
    acts: Tensor  # (n,) int64: 1 if the actor is at that cell in the frame before, -1 if its place is not known


def watch(source: ClipSource) -> Iterator[tuple[int, int, Tensor, NDArray[np.bool_] | None]]:
    """Yield every clip of a split, its label, its cubes (T, K*K, D) and the actor's cells, (T, K*K)."""
    envs = gym.make("VideoGlimpse-v0", source=source, observation="cube", glimpses=1)
    for clip in tqdm(range(source.num_clips), desc="clips", disable=None):
        cube, info = envs.reset(options={"clip": clip})
        cubes = [cube]
        for _ in range(source.num_frames - 1):
            cube, *_ = envs.step(np.zeros(2, np.int64))
            cubes.append(cube)
        engine = envs.unwrapped.engine  # type: ignore[attr-defined]
        actor = source.actor(clip)
        actors = None if actor is None else actor[engine.window[0]].reshape(source.num_frames, -1)
        yield clip, info["label"], torch.from_numpy(np.stack(cubes)).flatten(1, 2), actors


def unit(slices: Tensor) -> Tensor:
    """Scale (..., D) vectors to the length sqrt(D): the features of real frames differ widely in strength."""
    return F.normalize(slices, dim=-1) * slices.shape[-1] ** 0.5


def draw_samples(source: ClipSource, glimpses: int, rng: np.random.Generator) -> Samples:
    """Draw frames and cells of every clip of a split."""
    columns: dict[str, list[Tensor]] = {}
    clips = []
    for clip, label, cubes, actors in watch(source):
        frames = rng.integers(1, len(cubes), SAMPLES)
        cells = np.stack([rng.permutation(cubes.shape[1])[:glimpses] for _ in frames])
        shown = cubes[frames[:, None], cells]  # (SAMPLES, m, D)
        row = {
            "labels": torch.full((SAMPLES,), label), "looks": unit(shown.mean(1)),
            "wholes": unit(cubes[frames].mean(1)), "cells": torch.from_numpy(cells[:, 0]),
            "slices": unit(shown[:, 0]), "before": unit(cubes[frames - 1, cells[:, 0]]),
            "acts": torch.from_numpy(_acts(actors, frames - 1, cells[:, 0])),
        }  # fmt: skip
        for name, values in row.items():
            columns.setdefault(name, []).append(values)
        clips += [clip] * SAMPLES
    return Samples(np.array(clips), **{name: torch.cat(values) for name, values in columns.items()})


def _acts(actors: NDArray[np.bool_] | None, frames: NDArray[np.int64], cells: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.full(len(frames), -1) if actors is None else actors[frames, cells].astype(np.int64)


def fit_classifier(inputs: Tensor, labels: Tensor, classes: int, penalty: float) -> torch.nn.Linear:
    """Fit a multinomial logistic regression with an L2 penalty on its weights."""
    layer = zero_layer(inputs.shape[1], classes)
    fit_layer(layer, inputs, lambda logits: F.cross_entropy(logits, labels), 2 * penalty)
    return layer.requires_grad_(False)


def best_penalty(train: Samples, validation: Samples, name: str, classes: int, target: str = "labels") -> float:
    """Return the penalty whose classifier of `target` by `name` has the lowest loss on the validation clips."""

    def loss(penalty: float) -> float:
        layer = fit_classifier(getattr(train, name), getattr(train, target), classes, penalty)
        return float(F.cross_entropy(layer(getattr(validation, name)), getattr(validation, target)))

    return min(PENALTIES, key=loss)


def cross_fitted_scores(
    samples: Samples, films: NDArray[np.str_], classes: int, penalty: float, rng: np.random.Generator
) -> Tensor:
    """Return (n,): the log-score of each sample's label, by a classifier that was fitted to the slices of other films.

    Args:
        samples: of the clips of a split.
        films: (clips,) the film of each training clip.
        classes: C.
        penalty: L2 penalty of the classifiers.
        rng: draws the two halves of the films.
    """
    names, film = np.unique(films, return_inverse=True)
    half = torch.from_numpy(rng.permutation(len(names))[film][samples.clips] % 2)
    scores = torch.empty(len(half))
    for which in (0, 1):
        layer = fit_classifier(samples.slices[half != which], samples.labels[half != which], classes, penalty)
        log_softmax = layer(samples.slices[half == which]).log_softmax(1)
        scores[half == which] = log_softmax.gather(1, samples.labels[half == which, None])[:, 0]
    return scores


def within_clips(samples: Samples, values: Tensor) -> Tensor:
    """Return (n, ...) values minus the mean of their clip."""
    clips = torch.from_numpy(samples.clips)
    sums = values.new_zeros(int(clips.max()) + 1, *values.shape[1:]).index_add(0, clips, values)
    counts = clips.bincount().reshape(-1, *[1] * (values.dim() - 1))
    return values - (sums / counts)[clips]


def values_of_places(samples: Samples, scores: Tensor, size: int) -> Tensor:
    """Return (size,): how much better each cell scores than other cells of its clip; -inf for a cell without scores.

    Comparing within clips gives no credit to cells that were drawn in easy clips.
    """
    sums = torch.zeros(size).index_add(0, samples.cells, within_clips(samples, scores))
    return (sums / samples.cells.bincount(minlength=size)).nan_to_num(nan=-torch.inf)


def fit_values(samples: Samples, scores: Tensor, penalty: float) -> Callable[[Tensor], Tensor]:
    """Fit a ridge regression within clips, from the slice in the frame before to the score of the cell."""
    inputs = within_clips(samples, samples.before).double()
    gram = inputs.T @ inputs / len(inputs) + penalty * torch.eye(inputs.shape[1], dtype=torch.float64)
    targets = within_clips(samples, scores).double()
    weights = torch.linalg.solve(gram, inputs.T @ targets / len(inputs)).float()
    return lambda slices: slices @ weights


def predictability(value: Callable[[Tensor], Tensor], samples: Samples, scores: Tensor) -> float:
    """Return the correlation of predicted values with scores within clips."""
    pair = torch.stack([within_clips(samples, value(samples.before)), within_clips(samples, scores)])
    return float(torch.corrcoef(pair)[0, 1])


def seen_least(merit: Tensor, glimpses: int) -> Tensor:
    """Choose by (T, K*K) merits, in each frame the m best of the cells that were chosen least often before: (T, m)."""
    taken, visits = [], torch.zeros(merit.shape[1])
    for row in merit:
        order = np.lexsort((-row.numpy(), visits.numpy()))
        taken.append(torch.from_numpy(order[:glimpses].copy()))
        visits[taken[-1]] += 1
    return torch.stack(taken)


@dataclass(frozen=True)
class Headroom:
    """Results of rules that choose cells.

    Attributes:
        right: by rule (clips,), the share of draws in which each test clip is classified correctly.
        predictability: correlation of predicted values with scores within the validation clips, the best of four
            penalties.
        films: (clips,) the film of each test clip.
        focus: by rule, the share of frames with a look on the actor; empty if its place is not known.
    """

    right: dict[str, NDArray[np.float64]]
    predictability: float
    films: NDArray[np.str_]
    focus: dict[str, float] = field(default_factory=dict)

    def gain(self, rule: str) -> Interval:
        """Return the accuracy of a rule minus that of random cells, with its interval over films."""
        return mean_interval(self.right[rule] - self.right["random"], self.films)


def measure(splits: Mapping[str, ClipSource], *, glimpses: int, seed: int) -> Headroom:
    """Fit classifiers and values to the training clips, and try all rules on the test clips.

    Args:
        splits: "train", "validation" and "test".
        glimpses: m.
        seed: seed of every random choice.

    Raises:
        ValueError: `glimpses` exceeds the number of cells, or clips are untrimmed.
    """
    classes, size = len(splits["train"].class_names), splits["train"].grid_size ** 2
    if not 1 <= glimpses <= size:
        raise ValueError(f"glimpses must lie in 1..{size}, got {glimpses}")
    if not all(source.trimmed for source in splits.values()):
        raise ValueError("the source must hold trimmed clips, of one class each")
    rng = np.random.default_rng(seed)
    train, validation = (draw_samples(splits[name], glimpses, rng) for name in ("train", "validation"))
    looking = fit_classifier(train.looks, train.labels, classes, best_penalty(train, validation, "looks", classes))
    whole = fit_classifier(train.wholes, train.labels, classes, best_penalty(train, validation, "wholes", classes))
    penalty = best_penalty(train, validation, "slices", classes)
    single = fit_classifier(train.slices, train.labels, classes, penalty)
    scores = cross_fitted_scores(train, film_of_video(splits["train"]), classes, penalty, rng)
    unseen = single(validation.slices).log_softmax(1).gather(1, validation.labels[:, None])[:, 0]
    value = max(
        (fit_values(train, scores, penalty) for penalty in (1e-2, 1e-1, 1.0, 10.0)),
        key=lambda value: predictability(value, validation, unseen),
    )
    averages = values_of_places(train, scores, size)
    detector = None
    if min(train.acts.min(), validation.acts.min()) >= 0:
        detector = fit_classifier(train.before, train.acts, 2, best_penalty(train, validation, "before", 2, "acts"))

    right: dict[str, list[float]] = {}
    hits: dict[str, list[float]] = {}
    for _, label, cubes, actors in watch(splits["test"]):
        slices = unit(cubes)
        logs = single(slices).log_softmax(2)  # (T, K*K, C)
        noise = torch.from_numpy(rng.random((DRAWS, *logs.shape[:2])))
        merits = {
            "random": noise[:, 1:],
            "fixed": averages.expand(logs.shape[:2])[None, 1:],
            "content": value(slices)[None, :-1],
            "confident": (logs.exp() * logs).sum(2)[None, :-1],
            "hindsight": logs[None, 1:, :, label],
        }
        if actors is not None:
            merits["actor"] = noise[:, 1:] + torch.from_numpy(actors[1:])
        if detector is not None:
            merits["detector"] = detector(slices).diff(dim=2)[None, :-1, :, 0]
        chosen = {rule: merit.topk(glimpses, dim=2).indices for rule, merit in merits.items()}  # (draws, T - 1, m)
        chosen["content, new"] = seen_least(merits["content"][0], glimpses)[None]
        first = looking(unit(cubes[:1].mean(1))).softmax(1)
        for rule, cells in chosen.items():
            if actors is not None:
                on_actor = torch.from_numpy(actors[1:]).expand(len(cells), -1, -1).gather(2, cells)
                hits.setdefault(rule, []).append(float(on_actor.any(2).double().mean()))
            looks = cubes[torch.arange(1, len(cubes))[:, None], cells].mean(2)  # (draws, T - 1, D)
            softmax = torch.cat([first.expand(len(cells), -1)[:, None], looking(unit(looks)).softmax(2)], 1)
            right.setdefault(rule, []).append(float((softmax.mean(1).argmax(1) == label).double().mean()))
        of_all = whole(unit(cubes.mean(1))).softmax(1).mean(0)
        right.setdefault("all", []).append(float(of_all.argmax() == label))
    shares = {rule: np.array(values) for rule, values in right.items()}
    focus = {rule: float(np.mean(values)) for rule, values in hits.items()}
    return Headroom(shares, predictability(value, validation, unseen), film_of_video(splits["test"]), focus)


def main(arguments: Arguments) -> None:
    """Print the table."""
    splits = {
        name: open_source(arguments.source, split=name, fold=arguments.fold) for name in ("train", "validation", "test")
    }
    found = measure(splits, glimpses=arguments.glimpses, seed=arguments.seed)
    size, classes = splits["test"].grid_size ** 2, len(splits["test"].class_names)
    print(f"{splits['test'].num_clips} test clips, {arguments.glimpses} of {size} cells a frame, {classes} classes")
    print(f"predicted values correlate with scores by {found.predictability:.3f} on validation")
    print(f"{'':14}{'accuracy':>10}{'minus random':>24}{'focus':>8}")
    for rule in ("random", "fixed", "content", "content, new", "confident", "detector", "actor", "all", "hindsight"):
        if rule in found.right:
            gained = "-" if rule == "random" else found.gain(rule).text(signed=True)
            focus = f"{found.focus[rule]:.3f}" if rule in found.focus else "-"
            print(f"{rule:14}{found.right[rule].mean():>10.3f}{gained:>24}{focus:>8}")


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    return tyro.cli(Arguments, args=arguments, prog="python examples/headroom.py")


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
