"""The environments against an independent model of their rules, in plain Python and exact fractions."""

from fractions import Fraction

import numpy as np
from clip_toys import UnevenSource, counted
from hypothesis import given, settings
from hypothesis import strategies as st

from glimpse_env import Segment, VideoGlimpseEnv, VideoGlimpseVectorEnv

NAMES = ("run", "jump", "wave")
C, K = 3, 3


# ---- the model: a clip is (label or -1, length, truths), truths are (start, end, class) in frames or None if trimmed


def window(length, frames):
    """The frames played: the centred ones of a longer clip; a shorter one repeats its last frame."""
    if length >= frames:
        offset = (length - frames) // 2
        return list(range(offset, offset + frames))
    return list(range(length)) + [length - 1] * (frames - length)


def slice_of(clip, frame, cell):
    value = 1 + 2 * (9 * (MOST_FRAMES * clip + frame) + cell)  # as `counted` fills the array
    return [value, value + 1]


def cells_of(action, glimpses):
    """The cells that an action chooses, slot by slot; None for a slot that chooses none."""
    looks = action[: K * K if glimpses is None else glimpses]
    if glimpses is None:
        chosen = [cell for cell, look in enumerate(looks) if look]
        return chosen + [None] * (K * K - len(chosen))
    return [cell if cell not in looks[:slot] else None for slot, cell in enumerate(looks)]


def observe(rules, clip, frame, cells):
    """The observation of a frame: all of it if `cells` is "whole", nothing if it is None, else those cells."""
    mode, slots = rules["observation"], K * K if rules["glimpses"] is None else rules["glimpses"]
    if mode == "blind":
        return [0]
    if mode == "slices":
        if cells is None:
            return [[0] * 4] * slots
        if cells == "whole" and rules["glimpses"] is not None:
            columns = zip(*(slice_of(clip, frame, cell) for cell in range(K * K)), strict=True)
            return [[*(Fraction(sum(column), K * K) for column in columns), 0.5, 0.5]] * slots
        shown = range(K * K) if cells == "whole" else cells
        return [
            [0] * 4
            if cell is None
            else [*slice_of(clip, frame, cell), Fraction(2 * (cell // K) + 1, 6), Fraction(2 * (cell % K) + 1, 6)]
            for cell in shown
        ]
    shown = [] if cells is None else range(K * K) if cells == "whole" or mode == "cube" else cells
    flat = [slice_of(clip, frame, cell) if cell in shown else [0, 0] for cell in range(K * K)]
    return [flat[row * K : row * K + K] for row in range(K)]


def true_classes(truth, played, position):
    """The classes true at a frame: both ends of a segment belong to it."""
    label, _, truths = truth
    if truths is None:
        return {label} - {-1}
    return {one for start, end, one in truths if start <= played[position] <= end} - {-1}


def matched_segments(truth, played, predictions, threshold):
    """N+ and N- of runs of equal predictions (Yeung et al.)."""
    half, runs = Fraction(1, 2), []
    for position, prediction in enumerate(predictions):
        if position and predictions[position - 1] == prediction:
            runs[-1][1] = played[position] + half
        else:
            runs.append([played[position] - half, played[position] + half, prediction])
    runs = [run for run in runs if run[2] < C]
    first, last = played[0] - half, played[-1] + half
    label, _, truths = truth
    whole = [(first, last, label)] if truths is None else [(max(a, first), min(b, last), one) for a, b, one in truths]
    claimed = set()
    for start, end, one in sorted(segment for segment in whole if segment[0] <= segment[1]):  # not outside the window
        best = (threshold, None)
        for index, (left, right, other) in enumerate(runs):
            shared = max(0, min(end, right) - max(start, left))
            iou = Fraction(shared, 1) / ((end - start) + (right - left) - shared)
            if other == one and index not in claimed and iou > best[0]:
                best = (iou, index)
        claimed |= {best[1]} - {None}
    return len(claimed), len(runs) - len(claimed)


def play(rules, clip, truth, actions):
    """Yield the observation, reward, terminated and infos of reset and of each step."""
    played = window(truth[1], rules["frames"])
    labels = {truth[0]} if truth[2] is None else {one for _, _, one in truth[2]}
    glance = "whole" if rules["first_glance"] == "whole" else None
    counts = ("true_positives", "false_positives", "glimpses", "frames_observed", "is_correct")
    counts = dict.fromkeys(counts, 0)
    yield observe(rules, clip, played[0], glance), 0, False, {"frame": 1, "frame_labels": set(), **counts}
    looks, predictions, n = 0, [], 0
    for observed, action in enumerate(actions, 1):
        following = n + (1 if rules["jumps"] is None else rules["jumps"][action[-2]])
        predictions += [action[-1]] * (min(following, rules["frames"]) - n)
        info = {"frame": following + 1, "frame_labels": true_classes(truth, played, n), **counts}
        if following < rules["frames"]:
            cells = cells_of(action, rules["glimpses"])
            looks += len(cells) - cells.count(None)
            yield observe(rules, clip, played[following], cells), 0, False, info
            n = following
            continue
        if rules["matching"] == "segment":
            right, wrong = matched_segments(truth, played, predictions, rules["overlap_threshold"])
        else:
            right = sum(said in true_classes(truth, played, at) for at, said in enumerate(predictions))
            wrong = sum(said < C for said in predictions) - right
        votes = [predictions.count(one) for one in range(C)]
        is_correct = max(votes) > 0 and votes.index(max(votes)) in labels
        reward = rules["eta"] * right * rules["positive_reward"]
        reward += (1 - rules["eta"]) * wrong * rules["negative_reward"]
        reward -= rules["look_cost"] * looks + rules["frame_cost"] * (observed - 1)
        info |= {"frame": rules["frames"], "glimpses": looks, "frames_observed": observed, "is_correct": is_correct}
        yield observe(rules, clip, 0, None), reward, True, info | {"true_positives": right, "false_positives": wrong}
        return


# ---- clips and games

MOST_FRAMES = 7
EIGHTHS = st.integers(0, 8).map(lambda number: number / 8)  # exact in binary, as all numbers here


@st.composite
def clips(draw):
    trimmed = draw(st.booleans())
    truths = []
    for _ in range(2):
        length = draw(st.integers(1, MOST_FRAMES))
        spans = st.tuples(st.integers(-4, 30), st.integers(0, 16), st.integers(-1, C - 1))  # -1: unknown
        segments = [
            (Fraction(start, 4), Fraction(start + size, 4), one)
            for start, size, one in draw(st.lists(spans, max_size=4))
        ]
        truths.append((draw(st.integers(-1, C - 1)), length, None if trimmed else segments))
    return truths


@st.composite
def games(draw):
    glimpses = draw(st.sampled_from([None, 1, 2, 3, 9]))
    rules = {
        "frames": draw(st.integers(1, MOST_FRAMES)), "glimpses": glimpses, "abstain": draw(st.booleans()),
        "observation": draw(st.sampled_from(["glimpsed", "cube", "slices", "blind"])),
        "first_glance": draw(st.sampled_from(["whole", "none"])),
        "matching": draw(st.sampled_from(["frame", "segment"])),
        "overlap_threshold": draw(st.sampled_from([0.0, 0.25, 0.5, 0.75])), "eta": draw(EIGHTHS),
        "positive_reward": 0.25 + draw(EIGHTHS), "negative_reward": -0.25 - draw(EIGHTHS), "look_cost": draw(EIGHTHS),
        "jumps": draw(st.sampled_from([None, (1,), (2,), (1, 2, 4), (1, 3, 9)])), "frame_cost": draw(EIGHTHS),
    }  # fmt: skip
    part = st.lists(st.integers(0, 1), min_size=9, max_size=9)
    if glimpses is not None:
        part = st.lists(st.integers(0, K * K - 1), min_size=glimpses, max_size=glimpses)
    jump = [] if rules["jumps"] is None else [st.integers(0, len(rules["jumps"]) - 1)]
    action = st.tuples(part, *jump, st.integers(0, C - 1 + rules["abstain"])).map(lambda one: [*one[0], *one[1:]])
    plan = st.lists(action, min_size=rules["frames"], max_size=rules["frames"])
    return rules, [draw(plan), draw(plan)]


def assert_agrees(expected, observation, reward, terminated, info):
    seen, paid, ended, known = expected
    np.testing.assert_array_equal(observation, np.array(seen, float).astype(np.float32))
    assert (reward, terminated) == (paid, ended)
    assert set(np.flatnonzero(info["frame_labels"]).tolist()) == known["frame_labels"]
    for key in known.keys() - {"frame_labels"}:
        assert info[key] == known[key], key


@settings(max_examples=200)
@given(truths=clips(), game=games())
def test_both_environments_follow_the_rules(truths, game):
    rules, plans = game
    trimmed = truths[0][2] is None
    source = UnevenSource(
        features=counted(2, MOST_FRAMES), labels=np.array([label for label, _, _ in truths]), class_names=NAMES,
        frames_per_second=1.0, lengths=tuple(length for _, length, _ in truths),
        truths=None if trimmed else tuple(tuple(Segment(float(a), float(b), c) for a, b, c in t[2]) for t in truths),
    )  # fmt: skip
    single = VideoGlimpseEnv(source=source, **rules)
    vector = VideoGlimpseVectorEnv(2, source=source, autoreset_mode="Disabled", **rules)
    batch, infos = vector.reset(options={"clip": np.arange(2)})
    batches = [(batch, np.zeros(2), np.zeros(2, bool), infos)]
    games = [list(play(rules, clip, truths[clip], plan)) for clip, plan in enumerate(plans)]
    for actions in list(zip(*plans, strict=True))[: min(map(len, games)) - 1]:
        observations, rewards, terminations, truncations, infos = vector.step(np.array(actions))
        assert not truncations.any()
        batches.append((observations, rewards, terminations, infos))
    for clip, plan in enumerate(plans):
        expected = games[clip]
        observation, info = single.reset(options={"clip": clip})
        steps = [(observation, 0.0, False, info)]
        for action in plan[: len(expected) - 1]:
            observation, reward, terminated, truncated, info = single.step(np.array(action))
            assert not truncated
            steps.append((observation, reward, terminated, info))
        costs = rules["look_cost"] * info["glimpses"] + rules["frame_cost"] * (info["frames_observed"] - 1)
        assert single.engine.shares().sum() == reward + costs
        for number, model in enumerate(expected):
            assert_agrees(model, *steps[number])
            if number >= len(batches):  # the other environment has ended, and DISABLED plays neither on
                continue
            observations, rewards, terminations, infos = batches[number]
            rows = {key: values[clip] for key, values in infos.items() if not key.startswith("_")}
            assert_agrees(model, observations[clip], rewards[clip], terminations[clip], rows)
        labels = [truths[clip][0]] if trimmed else [one for _, _, one in truths[clip][2]]
        assert np.array_equal(info["label"], labels[0] if trimmed else np.isin(np.arange(C), labels))
