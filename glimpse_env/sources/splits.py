"""Splits into train, validation and test by groups of clips from one source video.

Clips cut from one film look alike, so whole groups are held out. The names alone decide: the same names give the same
splits on every machine and in every order.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
VALIDATION_SHARE = 0.15

# Body part, camera, number of people, viewpoint, quality, number: Kuehne et al., ICCV 2011, section 2.
_HMDB_TAGS = re.compile(r"_[hufl]_(?:nm|cm)_np\d+_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+$")


def check_split(split: str, fold: Any = 1, *, num_folds: int = 1, place: object) -> None:
    """Raise ValueError if the data set `place` has no such split or fold; folds are numbered from 1."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: {place} has {', '.join(SPLITS)}")
    is_integer = isinstance(fold, (int, np.integer)) and not isinstance(fold, bool)
    if not (is_integer and 1 <= fold <= num_folds):
        folds = ", ".join(map(str, range(1, num_folds + 1)))
        raise ValueError(f"unknown fold {fold!r}: {place} has fold {folds}")


def source_group(name: str, *, class_name: str) -> str:
    """Return the name of the source video of a clip: its name without class and tags, if it ends in HMDB-51's tags.

    `April_09_brush_hair_u_nm_np1_ba_goo_0` of class `brush_hair` is of `April_09`.
    """
    tags = _HMDB_TAGS.search(name)
    return name if tags is None else name[: tags.start()].removesuffix(f"_{class_name}")


def carve_groups(classes: Mapping[str, Collection[int]], *, share: float) -> frozenset[str]:
    """Choose the groups to hold out, in the order of the sha256 of their names.

    Args:
        classes: for each group the classes of its clips. The name of a group is hashed without the folder before it.
        share: part of each class's groups to hold out, in [0, 1].

    Returns:
        `share` of each class's groups, rounded to the nearest whole number with halves up, but at least one of two or
        more groups, and never all groups: a class with a single group keeps it. A group that one class needs is held
        out for all its classes, which may lose more than their share.

    Raises:
        ValueError: share lies outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}")
    totals = Counter(label for labels in classes.values() for label in labels)
    wanted = {label: min(max(int(share * total + 0.5), 1), total - 1) for label, total in totals.items()}
    # File names need not be UTF-8.
    digests = {
        group: hashlib.sha256(group.rpartition("/")[2].encode("utf-8", "surrogateescape")).digest() for group in classes
    }
    held: Counter[int] = Counter()
    chosen = set()
    for group in sorted(classes, key=lambda group: (digests[group], group)):
        labels = classes[group]
        if any(held[label] < wanted[label] for label in labels) and all(
            held[label] < totals[label] - 1 for label in labels
        ):
            chosen.add(group)
            held.update(labels)
    return frozenset(chosen)


def carve_validation(train: Mapping[str, tuple[int, str]], *, share: float = VALIDATION_SHARE) -> frozenset[str]:
    """Choose the clips of an official train part that validate instead: all clips of the groups of `carve_groups`.

    Args:
        train: for each clip id its label and its source group.
        share: part of each class's groups to hold out.
    """
    classes: dict[str, set[int]] = defaultdict(set)
    for label, group in train.values():
        classes[group].add(label)
    carved = carve_groups(classes, share=share)
    return frozenset(clip for clip, (_, group) in train.items() if group in carved)


def split_groups(clips: Mapping[str, tuple[int, str]], *, share: float = VALIDATION_SHARE) -> dict[str, Split]:
    """Return the split of every clip: of each class's groups `share` tests, as many validate, the rest trains.

    The test part is carved first, then `share / (1 - share)` of the rest validates; a class with one group only trains.

    Args:
        clips: for each clip id its label and its source group.
        share: part of each class's groups for each of the two, rounded as in `carve_groups`.
    """
    test = carve_validation(clips, share=share)
    rest = {clip: key for clip, key in clips.items() if clip not in test}
    validation = carve_validation(rest, share=share / (1 - share))
    return {clip: "test" if clip in test else "validation" if clip in validation else "train" for clip in clips}
