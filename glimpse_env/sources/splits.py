"""Splits into train, validation and test by groups of clips from one source video.

Clips cut from one film look alike, so a part that is held out holds whole groups. Everything here depends on names
alone: the same names give the same parts on every machine and in every order.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
VALIDATION_SHARE = 0.15

# Body part, camera, number of people, viewpoint, quality, number: Kuehne et al., ICCV 2011, section 2.
_HMDB_TAGS = re.compile(r"_[hufl]_(?:nm|cm)_np\d+_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+$")


def source_group(name: str, *, class_name: str) -> str:
    """Return the name of the source video that a clip was cut from.

    Args:
        name: the clip's name without folder and extension, for example `April_09_brush_hair_u_nm_np1_ba_goo_0`.
        class_name: the clip's class, which HMDB-51 writes before the tags.

    Returns:
        The name without class and tags (`April_09`); the whole name if it does not end in HMDB-51's tags.
    """
    tags = _HMDB_TAGS.search(name)
    return name if tags is None else name[: tags.start()].removesuffix(f"_{class_name}")


def carve_groups(groups: Iterable[str], *, share: float) -> frozenset[str]:
    """Choose the groups of one class to hold out: the ones whose names have the smallest sha256.

    Args:
        groups: group names, repeats allowed.
        share: part of the groups to hold out, in [0, 1].

    Returns:
        `share` of the distinct groups, rounded to the nearest whole number with halves up, but at least one of two or
        more groups and never all of them: a class with a single group keeps it.

    Raises:
        ValueError: share lies outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}")
    # File names need not be UTF-8.
    digests = {group: hashlib.sha256(group.encode("utf-8", "surrogateescape")).digest() for group in groups}
    ordered = sorted(digests, key=lambda group: (digests[group], group))
    count = min(max(int(share * len(ordered) + 0.5), 1), len(ordered) - 1)
    return frozenset(ordered[: max(count, 0)])


def carve_validation(train: Mapping[str, tuple[int, str]], *, share: float = VALIDATION_SHARE) -> frozenset[str]:
    """Choose the clips of an official train part that validate instead.

    Args:
        train: for each clip id its label and its source group.
        share: part of each class's groups to hold out.

    Returns:
        The ids of all clips in the groups that `carve_groups` chooses class by class.
    """
    groups = defaultdict(set)
    for label, group in train.values():
        groups[label].add(group)
    carved = {label: carve_groups(names, share=share) for label, names in groups.items()}
    return frozenset(clip for clip, (label, group) in train.items() if group in carved[label])


def split_groups(clips: Mapping[str, tuple[int, str]], *, share: float = VALIDATION_SHARE) -> dict[str, Split]:
    """Split clips without official splits: of each class's groups `share` tests, as much validates, the rest trains.

    Args:
        clips: for each clip id its label and its source group.
        share: part of each class's groups for each of the two, rounded as in `carve_groups`.

    Returns:
        The split of every clip. The test part is carved first, the validation part from what remains, so that it is
        `share / (1 - share)` of that; a class with one group only trains.
    """
    test = carve_validation(clips, share=share)
    rest = {clip: key for clip, key in clips.items() if clip not in test}
    validation = carve_validation(rest, share=share / (1 - share))
    return {clip: "test" if clip in test else "validation" if clip in validation else "train" for clip in clips}
