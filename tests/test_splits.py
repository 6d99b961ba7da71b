"""Groups of clips from one film, and the parts carved from them."""

import hashlib

import pytest

from glimpse_env.sources.splits import carve_groups, carve_validation, source_group, split_groups


@pytest.mark.parametrize(
    ("name", "class_name", "group"),
    [
        ("April_09_brush_hair_u_nm_np1_ba_goo_0", "brush_hair", "April_09"),
        ("show_walk_f_cm_np1_ri_med_36", "walk", "show"),
        ("walk_walk_walk_f_cm_np10_fr_bad_2", "walk", "walk_walk"),
        ("show_walk_f_cm_np1_ri_med_36", "run", "show_walk"),
        ("holiday_2019", "walk", "holiday_2019"),
        ("show_walk_f_cm_np1_ri_med", "walk", "show_walk_f_cm_np1_ri_med"),
    ],
)
def test_source_group_strips_class_and_tags(name, class_name, group):
    assert source_group(name, class_name=class_name) == group


def test_carve_groups_takes_the_smallest_sha256():
    groups = [f"film{number}" for number in range(10)]
    by_hash = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    assert carve_groups({group: {0} for group in groups}, share=0.15) == set(by_hash[:2])  # 1.5 rounds up
    assert carve_groups({f"walk/{group}": {0} for group in reversed(groups)}, share=0.15) == {
        f"walk/{group}" for group in by_hash[:2]
    }


@pytest.mark.parametrize(
    ("count", "carved"), [(0, 0), (1, 0), (2, 1), (3, 1), (9, 1), (10, 2), (16, 2), (17, 3), (100, 15)]
)
def test_carve_groups_rounds_halves_up_and_never_takes_all(count, carved):
    groups = {str(number): {0} for number in range(count)}
    assert len(carve_groups(groups, share=0.15)) == carved
    assert len(carve_groups(groups, share=1.0)) == max(count - 1, 0)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_carve_groups_refuses_a_share_outside_0_and_1(share):
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got"):
        carve_groups({"a": {0}}, share=share)


def test_a_film_of_several_classes_is_held_out_of_all_of_them():
    # Hashes of a, b, c and d begin with ca, 3e, 2e and 18: the order is d, c, b, a.
    classes = {"d": {0}, "c": {0, 1}, "b": {1}, "a": {1, 2}}
    # Class 0 takes d, and then may not lose c, its last; class 1 takes b instead; class 2 has only a.
    assert carve_groups(classes, share=0.15) == {"d", "b"}
    # Class 1 needs the first film of three, c, which class 0 loses with it, beyond its own share.
    assert carve_groups({"d": {0}, "c": {0, 1}, "b": {1}, "a": {0}}, share=0.15) == {"d", "c"}
    train = {"run/d1": (0, "d"), "run/c1": (0, "c"), "walk/c2": (1, "c"), "walk/b1": (1, "b"), "run/a1": (0, "a")}
    assert carve_validation(train) == {"run/d1", "run/c1", "walk/c2"}


def test_validation_holds_whole_groups_of_every_class_with_two():
    train = {f"{label}/{film}-{cut}": (label, f"film{film}") for label in (0, 1) for film in range(4) for cut in "ab"}
    train["2/only-a"] = train["2/only-b"] = (2, "only")
    validation = carve_validation(train)
    assert len(validation) == 4
    assert {train[clip][0] for clip in validation} == {0, 1}
    held_out = {train[clip] for clip in validation}
    assert all((train[clip] in held_out) == (clip in validation) for clip in train)


def test_split_groups_is_disjoint_and_near_the_shares():
    clips = {f"{label}/{number}": (label, str(number)) for label in (0, 1) for number in range(100)}
    parts = split_groups(clips)
    for label in (0, 1):
        own = [part for clip, part in parts.items() if clips[clip][0] == label]
        assert [own.count(part) for part in ("train", "validation", "test")] == [70, 15, 15]
    assert split_groups({"a": (0, "a")}) == {"a": "train"}
    assert sorted(split_groups({"a": (0, "a"), "b": (0, "b")}).values()) == ["test", "train"]
    assert sorted(split_groups({"a": (0, "a"), "b": (0, "b"), "c": (0, "c")}).values()) == [
        "test",
        "train",
        "validation",
    ]
