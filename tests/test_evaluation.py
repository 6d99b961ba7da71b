"""Evaluation: every clip of a split is played once, and each measure equals one worked out from the rollout."""

import dataclasses

import numpy as np
import pytest
import torch
from agent_toys import marked_source, tiny_config
from clip_toys import UnevenSource
from glimpse_agents.learning.models import MODELS
from glimpse_agents.playing import evaluation
from glimpse_agents.playing.envs import make_envs, make_policy, sample_slices
from glimpse_agents.playing.evaluation import (
    class_scores,
    evaluate,
    event_delays_of,
    film_of_video,
    measure_events,
    middle_clips,
    play_split,
    video_labels,
    video_scores,
)
from glimpse_agents.playing.players import PlaySettings
from sklearn.metrics import average_precision_score

from glimpse_env import ArraySource, Segment, SlidingWindows, WallSource, open_source

GREEDY = PlaySettings(greedy=True)


def by(model, **changes):
    """Return how episodes of a model are played."""
    return PlaySettings(model=MODELS[model], **changes)


def wild_policy(config, source):
    """Return a policy with weights so large that its predictions depend on its looks."""
    policy, rng = make_policy(config, source), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(2 * torch.randn(parameter.shape, generator=rng))
    return policy


def measure(source, settings, *, num_envs=4, seed=0, **changes):
    config = tiny_config(model=settings.model.name, **changes)
    envs = make_envs(config, source, num_envs, train=False)
    return evaluate(envs, wild_policy(config, source), settings, seed=seed)


def spelled(clips, *, labels):
    """Return clips whose cells all show "a" or "b" in each frame."""
    features = np.eye(2, dtype=np.float32)[[["ab".index(letter) for letter in clip] for clip in clips]]
    features = np.broadcast_to(features[:, :, None, None], (*features.shape[:2], 3, 3, 2))
    return ArraySource(features=features, labels=np.array(labels), class_names=("a", "b"), frames_per_second=10.0)


def reading(source):
    """Return environments, and a policy that gives a sigmoid(2) if "a" is shown, and b sigmoid(0.4) otherwise."""
    config = tiny_config(encoder="sum", skip=True, frame_embedding=False)
    policy = make_policy(config, source)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.class_head.hidden.weight[:2, -2:] = 20 * torch.eye(2)  # past the LSTM, and so large that tanh is 1
        policy.class_head.classes.weight[0, 0], policy.class_head.classes.weight[1, 1] = 2.0, 0.4
    return make_envs(config, source, 2, train=False), policy


def test_class_scores_are_the_mean_of_the_frames_softmaxes():
    logits = torch.tensor([[[1.0, 3.0], [3.0, 1.0], [1.0, 1.0]]]).log()
    assert class_scores(logits, 2)[0].tolist() == pytest.approx([0.5, 0.5])
    assert class_scores(logits[:, :1], 2)[0].tolist() == pytest.approx([0.25, 0.75])


def test_frames_that_abstain_have_little_weight_in_class_scores():
    logits = torch.tensor([[[1.0, 3.0, 96.0], [3.0, 1.0, 4.0]]]).log()
    assert class_scores(logits, 2)[0].tolist() == pytest.approx([(0.01 + 3 / 8) / 2, (0.03 + 1 / 8) / 2])


def test_class_scores_of_the_last_sixteen_frames():
    logits = torch.tensor([[9.0, 1.0]] * 4 + [[1.0, 3.0]] * 8 + [[3.0, 1.0]] * 8).log()[None]
    assert class_scores(logits, 2, "last16")[0].tolist() == pytest.approx([0.5, 0.5])
    assert class_scores(logits[:, :6], 2, "last16")[0].tolist() == pytest.approx(
        [(4 * 0.9 + 2 * 0.25) / 6, 0.4 / 6 + 1.5 / 6]
    )


def test_class_scores_are_shares_of_frames_with_video_score_mode():
    logits = torch.tensor([[[0.0, 9.0, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [1.0, 0.0, 2.0], [1.0, 1.0, 0.0]]])
    # the first predicts 1, two and the tie predict 0, the fourth the last: class 2, or none
    assert class_scores(logits, 3, "mode")[0].tolist() == pytest.approx([0.6, 0.2, 0.2])
    assert class_scores(logits, 2, "mode")[0].tolist() == pytest.approx([0.6, 0.2])


@pytest.mark.parametrize("num_envs", [1, 4, 10, 16])
def test_every_clip_is_played_once_in_order(num_envs):
    source, config = marked_source(10), tiny_config()
    envs = make_envs(config, source, num_envs, train=False)
    played = play_split(envs, wild_policy(config, source), GREEDY, seed=0)
    clips = [clip for rollout, valid in played for clip in rollout.clips[:valid].tolist()]
    assert clips == list(range(10))


@pytest.mark.parametrize("num_envs", [1, 3, 10, 16])
def test_measures_do_not_depend_on_the_number_of_environments(num_envs):
    source = marked_source(10)
    some, all_at_once = (measure(source, GREEDY, num_envs=count) for count in (num_envs, 10))
    sums = {name: getattr(all_at_once, name) for name in ("entropy", "log_score")}  # of rounded terms
    assert {name: getattr(some, name) for name in sums} == pytest.approx(sums)
    assert dataclasses.replace(some, **sums) == all_at_once


def test_each_measure_equals_its_definition():
    source, config = marked_source(30), tiny_config()
    envs, policy = make_envs(config, source, 30, train=False), wild_policy(config, source)
    measured = evaluate(envs, policy, GREEDY, seed=0)
    ((rollout, _),) = play_split(envs, policy, GREEDY, seed=0)
    labels = torch.from_numpy(source.labels)
    right = class_scores(rollout.class_logits, 3).argmax(1) == labels
    assert measured.correct == tuple(right.tolist())
    assert measured.accuracy == pytest.approx(right.double().mean().item())
    votes = torch.nn.functional.one_hot(rollout.predictions, 3).sum(1).argmax(1)
    assert measured.vote_accuracy == pytest.approx((votes == labels).double().mean().item())
    hits_per_frame = (rollout.predictions == labels[:, None]).double().sum(1)
    assert measured.reward == pytest.approx((0.5 * hits_per_frame - 0.5 * (4 - hits_per_frame)).mean().item())
    places = torch.from_numpy(source.actors[:, 0].reshape(30, 9)).int().argmax(1)
    on_actor = rollout.cells == places[:, None, None]
    assert measured.focus == pytest.approx(on_actor.any(2).double().mean().item())
    assert measured.focus_per_look == pytest.approx(on_actor.double().mean().item())
    assert 0 < measured.focus_per_look < measured.focus < 1
    assert measured.glimpses_per_frame == 2.0
    assert measured.true_positives == pytest.approx(hits_per_frame.mean().item())
    assert measured.false_positives == pytest.approx(4 - hits_per_frame.mean().item())
    scores, truths = class_scores(rollout.class_logits, 3).numpy(), np.eye(3, dtype=bool)[source.labels]
    assert measured.top3 == measured.hit_at_3 == 1.0  # of three classes
    assert measured.hit_at_1 == measured.accuracy
    plain = np.mean([average_precision_score(truths[:, label], scores[:, label]) for label in range(3)])
    assert measured.plain_mean_average_precision == pytest.approx(plain)
    assert measured.plain_mean_average_precision < measured.mean_average_precision < 1
    looks = [[(rollout.cells == 3 * row + column).double().mean().item() for column in range(3)] for row in range(3)]
    assert np.array(measured.visits) == pytest.approx(np.array(looks))


@pytest.mark.parametrize(
    ("video_score", "correct"), [("mean", (False, False)), ("last16", (True, False)), ("mode", (True, True))]
)
def test_the_video_score_decides_which_videos_are_correct(video_score, correct):
    # Both are b. a is 0.881 where a is said and 0.401 where b is; the frames' mean says a of both, (5 * 0.881 +
    # 16 * 0.401) / 21 = 0.515 and 0.561, that of the last sixteen 0.401 and (7 * 0.881 + 9 * 0.401) / 16 = 0.611.
    source = spelled(["a" * 5 + "b" * 16, "b" * 5 + "a" * 7 + "b" * 9], labels=[1, 1])
    measured = evaluate(*reading(source), GREEDY, seed=0, video_score=video_score)
    assert measured.correct == correct


def test_accuracy_by_frames_counts_the_first_frames_alone():
    # After one frame a is 0.401 of both; after two (0.401 + 0.881) / 2 = 0.641 and 0.401; after three 0.721 and 0.561.
    source = spelled(["baa", "bba"], labels=[0, 1])
    for video_score in ("mean", "mode"):
        measured = evaluate(*reading(source), GREEDY, seed=0, video_score=video_score)
        assert measured.accuracy_by_frames == (0.5, 1.0, 0.5)
    assert measured.accuracy == 1.0


def test_visits_are_shares_in_the_environments_grid():
    measured = measure(marked_source(6), by("centre"), glimpses=2)
    # the two cells nearest to the centre: the centre, and the first of its four neighbours, above it
    assert measured.visits == ((0, 0.5, 0), (0, 0.5, 0), (0, 0, 0))


def test_mirrored_episodes_are_not_measured():
    with pytest.raises(ValueError, match="mirrored episodes are for training: set mirror=False to measure"):
        measure(marked_source(6), PlaySettings(mirror=True))


def test_focus_of_models_that_can_be_worked_out():
    source = marked_source(300)
    oracle = measure(source, by("oracle"), num_envs=64, glimpses=3)
    assert (oracle.focus, oracle.focus_per_look) == (1.0, pytest.approx(1 / 3))
    centre = measure(source, by("centre"), num_envs=64, glimpses=1)
    assert centre.focus == pytest.approx(source.actors[:, 0, 1, 1].mean())
    random = measure(source, by("random"), num_envs=64, glimpses=3)
    assert random.focus == pytest.approx(1 / 3, abs=0.05)
    assert random.focus_per_look == pytest.approx(1 / 9, abs=0.02)


@pytest.mark.parametrize("model", ["mean", "all"])
def test_a_model_that_sees_all_cells_has_no_focus(model):
    measured = measure(marked_source(6), by(model))
    assert (measured.focus, measured.focus_per_look, measured.glimpses_per_frame) == (None, None, 9.0)
    assert measured.visits is None


def test_attention_on_the_actor_is_a_share_of_the_weights():
    source, config = marked_source(6), tiny_config()
    envs, policy = make_envs(config, source, 6, train=False), wild_policy(config, source)
    ((rollout, valid),) = play_split(envs, policy, GREEDY, seed=0)
    shares = [
        evaluation.measure([(played, valid)], envs, sees_all=False).attention_on_actor
        for played in (rollout, dataclasses.replace(rollout, attention=0.3 * rollout.attention))
    ]
    assert 0 < shares[0] < 1
    assert shares[1] == pytest.approx(shares[0])


def test_focus_is_unknown_if_the_actor_is():
    measured = measure(dataclasses.replace(marked_source(6), actors=None), GREEDY)
    assert (measured.focus, measured.focus_per_look) == (None, None)
    assert 0 <= measured.accuracy <= 1


def test_the_seed_decides_all_random_draws():
    source = marked_source(20)
    same, again, other = (measure(source, by("random"), seed=seed) for seed in (1, 1, 2))
    assert same == again != other


def test_clips_of_unknown_class_are_never_right():
    source = dataclasses.replace(marked_source(5), labels=np.full(5, -1))
    measured = measure(source, GREEDY)
    assert (measured.accuracy, measured.vote_accuracy, measured.reward) == (0.0, 0.0, -2.0)
    assert (measured.top3, measured.hit_at_1, measured.hit_at_3) == (0.0, None, None)
    assert (measured.mean_average_precision, measured.plain_mean_average_precision) == (None, None)
    assert (measured.true_positives, measured.false_positives) == (0.0, 4.0)


def test_labels_of_a_clip_are_those_of_all_its_segments():
    source = open_source("synthetic-untrimmed", split="validation")
    truth = [{segment.label for segment in source.segments(clip)} for clip in range(source.num_clips)]
    assert [set(np.flatnonzero(row)) for row in video_labels(source)] == truth
    assert {len(labels) for labels in truth} == {1, 2}


def test_a_segment_of_unknown_class_gives_no_label():
    class Unknown:
        num_clips, class_names = 1, ("run", "walk")

        def segments(self, clip):
            return Segment(0.0, 1.0, -1), Segment(1.0, 2.0, 0)

    assert video_labels(Unknown()).tolist() == [[True, False]]


def test_events_are_found_by_looks_at_the_actor():
    source = open_source("synthetic-untrimmed", split="validation")
    always, never = (measure(source, by(name), num_envs=64, glimpses=1) for name in ("oracle", "all"))
    assert (always.events_found, always.event_delay) == (1.0, 0.0)
    assert (never.events_found, never.event_delay) == (None, None)  # all cells are seen
    chance = measure(source, by("random"), num_envs=64, glimpses=1)
    assert 0.1 < chance.events_found < 0.35  # 1 - (48/49)^12 = 0.22
    assert chance.event_delay > 0
    assert measure(marked_source(5), GREEDY).events_found is None  # trimmed
    windows = SlidingWindows(source=source, window_seconds=1.0)
    assert measure(windows, by("oracle"), num_envs=64, glimpses=1).events_found is None


@torch.no_grad()
def test_overlapping_events_of_a_wall_are_found_by_looks_at_their_own_cameras():
    rng = np.random.default_rng(2)
    shown = ArraySource(
        features=rng.uniform(0, 1, (9, 4, 1, 1, 4)).astype(np.float32), labels=np.arange(9) % 3,
        class_names=("a", "b", "sit"), frames_per_second=10.0,
    )  # fmt: skip
    wall = WallSource(shown, grid=2, background=["sit"], trimmed=False, frames=12, events=2, walls=60, seed=1)
    overlap = [(wall.actor(clip).sum((1, 2)) > 1).any() for clip in range(wall.num_clips)]
    assert sum(overlap) > 5
    config = tiny_config(model="random", glimpses=4, abstain=True)
    envs = make_envs(config, wall, 60, train=False)
    rollout, _ = next(play_split(envs, make_policy(config, wall), by("random"), seed=0))
    delays = event_delays_of(rollout, on_walls=True)  # all cameras are looked at from frame 2 on
    assert len(delays) == sum(len(wall.segments(clip)) for clip in range(wall.num_clips))
    begins_at_once = sum(int(wall.actor(clip)[0].sum()) for clip in range(wall.num_clips))
    assert delays.bincount().tolist() == [len(delays) - begins_at_once, begins_at_once]
    found = measure(wall, by("random"), num_envs=60, glimpses=1, abstain=True)
    assert 0.4 < found.events_found < 0.9  # 1 - (3/4)^4 = 0.68
    assert measure(wall, by("random"), num_envs=60, glimpses=4, abstain=True).events_found == 1.0


def test_the_delay_of_an_even_number_of_events_is_the_middle_of_both():
    assert measure_events(torch.tensor([0, 10, -1, -1])) == {"events_found": 0.5, "event_delay": 5.0}
    assert measure_events(torch.tensor([-1])) == {"events_found": 0.0, "event_delay": None}
    assert measure_events(torch.tensor([], dtype=torch.int64)) == {"events_found": None, "event_delay": None}


# ---- windows that slide over videos


@pytest.fixture
def slid():
    """Videos of nine, two and four frames in windows of three, every two: four, one and two of them, ten a second.

    The first is class a at the start, background in the middle and class b at the end; the second is background; the
    third has no labels.
    """
    rng = np.random.default_rng(3)
    source = UnevenSource(
        features=rng.uniform(0, 1, (3, 9, 3, 3, 4)).astype(np.float32),
        labels=np.zeros(3, np.int64),
        class_names=("a", "b", "c"),
        frames_per_second=10.0,
        lengths=(9, 2, 4),
        truths=((Segment(0.0, 0.2, 0), Segment(0.75, 0.85, 1)), (Segment(0.5, 0.6, 2),), ()),
    )
    return SlidingWindows(source=source, window_seconds=0.3, stride_seconds=0.2)


def test_scores_of_a_video_are_the_mean_over_its_windows(slid):
    scores = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9], [0.8, 0.2]])
    # (0.9 + 0.3 + 0.4 + 0.4) / 4 = 0.5; the second has one window; (0.1 + 0.8) / 2 = 0.45
    expected = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.45, 0.55]])
    torch.testing.assert_close(video_scores(scores, slid), expected)
    assert torch.equal(video_scores(scores, marked_source(7)), scores)


def test_labels_of_a_video_are_those_of_all_its_segments(slid):
    # Class c is true of the second video, though only after its last frame.
    assert video_labels(slid).tolist() == [[True, True, False], [False, False, True], [False, False, False]]
    windows = [{segment.label for segment in slid.segments(window)} for window in range(7)]
    assert windows == [{0}, {0}, set(), {1}, set(), set(), set()]


def test_the_middle_window_stands_for_a_video(slid):
    assert middle_clips(slid).tolist() == [2, 4, 6]
    assert middle_clips(marked_source(4)).tolist() == [0, 1, 2, 3]


def test_names_of_videos_contain_their_films():
    names = ["run/April_09_run_h_nm_np1_ba_goo_0", "run/v_Run_g02_c01", "run/April_09_run_h_nm_np1_ba_goo_1.avi"]
    names += ["run/v_Run_g01_c02.avi", "run/v_Run_g01_c03", "run/mine.mp4", "run/yours.mp4"]
    source = dataclasses.replace(marked_source(7), clip_ids=names)
    films = ["April_09", "v_Run_g02", "April_09", "v_Run_g01", "v_Run_g01", "run/mine", "run/yours"]
    assert list(measure(source, GREEDY).films) == films


def test_walls_of_one_event_are_of_one_film():
    wall = WallSource(marked_source(9), background=["classa"], grid=2, walls=60)
    assert len(set(film_of_video(wall).tolist())) == 6  # events


def test_films_are_those_of_videos_not_of_windows(slid):
    assert len(set(film_of_video(slid).tolist())) == len(video_labels(slid)) == 3


@pytest.mark.parametrize("num_envs", [1, 3, 7, 16])
def test_videos_are_scored_by_their_windows_and_other_measures_are_of_windows(slid, num_envs):
    config = tiny_config()
    envs, policy = make_envs(config, slid, 7, train=False), wild_policy(config, slid)
    ((rollout, _),) = play_split(envs, policy, GREEDY, seed=0)
    scores = class_scores(rollout.class_logits, 3).numpy()
    joined = [scores[:4].mean(0).argmax(), scores[4].argmax(), scores[5:].mean(0).argmax()]
    measured = measure(slid, GREEDY, num_envs=num_envs)
    assert measured.correct == (joined[0] in (0, 1), joined[1] == 2, False)
    assert measured.accuracy == pytest.approx(sum(measured.correct) / 3)
    assert measured.hit_at_1 == pytest.approx(sum(measured.correct) / 2)  # the third has no label
    softmax = rollout.class_logits.softmax(-1).numpy()
    early = [softmax[:4, 0].mean(0).argmax() in (0, 1), softmax[4, 0].argmax() == 2, False]
    assert len(measured.accuracy_by_frames) == 3
    assert measured.accuracy_by_frames[::2] == pytest.approx((sum(early) / 3, sum(measured.correct) / 3))
    assert measured.vote_accuracy == pytest.approx(rollout.is_correct.double().mean().item())
    assert measured.reward == pytest.approx(rollout.rewards.double().mean().item())


def test_windows_that_disagree_are_averaged():
    """Two windows favour b by a little, and one favours a by a lot: together they predict a; votes do not change."""
    windows = SlidingWindows(source=spelled(["aabbbb"], labels=[0]), window_seconds=0.2, stride_seconds=0.2)
    measured = evaluate(*reading(windows), GREEDY, seed=0)
    # sigmoid(2) = 0.881 and 1 - sigmoid(0.4) = 0.401 twice: (0.881 + 0.401 + 0.401) / 3 = 0.561 for a
    assert (measured.accuracy, measured.correct) == (1.0, (True,))
    assert measured.vote_accuracy == pytest.approx(1 / 3)


# ---- parts of a run


def test_sampled_slices_are_those_of_middle_frames():
    features = np.arange(5 * 3 * 4 * 2, dtype=np.float32).reshape(5, 3, 2, 2, 2)
    source = ArraySource(features=features, labels=np.zeros(5, np.int64), class_names=("a",))
    assert np.array_equal(sample_slices(source), features[:, 1].reshape(-1, 2))
    assert np.array_equal(sample_slices(source, cubes=2), features[[0, 4], 1].reshape(-1, 2))
    assert np.array_equal(sample_slices(source, place=0.0), features[:, 0].reshape(-1, 2))


def test_a_network_is_drawn_from_the_seed_alone():
    source = marked_source(3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = make_policy(tiny_config(), source).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same, other = (make_policy(tiny_config(seed=seed), source).state_dict() for seed in (1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["class_head.classes.weight"], other["class_head.classes.weight"])
