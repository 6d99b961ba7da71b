"""Headroom of choosing cells: on clips whose actor alone shows the class, the rules rank as they must."""

import dataclasses

import headroom
import numpy as np
import pytest
import torch
from agent_toys import marked_splits, write_marked_store
from glimpse_agents.tables.intervals import ONE_FILM, mean_interval

from glimpse_env import ArraySource, UntrimmedSyntheticSource


def lonely_splits():
    """Return clips in which only the actor's cell shows anything."""
    splits = marked_splits(90, frames=6)
    return {
        name: dataclasses.replace(source, features=source.features * np.float32(source.actors[..., None] + 0.01))
        for name, source in splits.items()
    }


@pytest.fixture(scope="module")
def found():
    return headroom.measure(lonely_splits(), glimpses=1, seed=1)


def test_rules_that_find_the_actor_are_right_more_often(found):
    accuracy = {rule: shares.mean() for rule, shares in found.right.items()}
    assert accuracy["actor"] > accuracy["random"] + 0.15
    assert accuracy["content"] == pytest.approx(accuracy["actor"], abs=0.02)  # the mark shows where the score is high
    assert accuracy["fixed"] < accuracy["random"] + 0.1  # the actor is anywhere
    assert accuracy["content, new"] < accuracy["content"]  # and stays there
    assert accuracy["detector"] == pytest.approx(accuracy["actor"], abs=0.02)
    assert accuracy["hindsight"] == accuracy["all"] == 1.0
    assert found.predictability > 0.2


def test_focus_is_the_share_of_frames_with_a_look_on_the_actor(found):
    assert found.focus["actor"] == 1.0
    assert found.focus["detector"] > 0.9
    assert found.focus["random"] == pytest.approx(1 / 9, abs=0.04)


def test_without_the_place_of_the_actor_there_is_no_detector():
    splits = {name: dataclasses.replace(source, actors=None) for name, source in lonely_splits().items()}
    found = headroom.measure(splits, glimpses=1, seed=1)
    assert found.focus == {}
    assert not found.right.keys() & {"actor", "detector"}


def test_gains_are_paired_by_clip(found):
    gain = found.gain("actor")
    assert gain.mean == pytest.approx(found.right["actor"].mean() - found.right["random"].mean())
    assert 0 < gain.half < 0.2


def test_the_same_seed_gives_the_same_results(found):
    again = headroom.measure(lonely_splits(), glimpses=1, seed=1)
    for rule, shares in found.right.items():
        np.testing.assert_array_equal(shares, again.right[rule])


def test_cells_that_were_chosen_least_often_come_first():
    merit = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
    assert headroom.seen_least(merit, 1).tolist() == [[0], [1], [2]]
    assert headroom.seen_least(merit, 2).tolist() == [[0, 1], [2, 0], [2, 1]]


def test_the_classifier_is_fitted_to_the_optimum():
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(60, 3, generator=generator), torch.arange(60) % 2
    layer = headroom.fit_classifier(inputs, labels, 2, 0.1).requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(layer(inputs), labels) + 0.1 * layer.weight.square().sum()
    loss.backward()
    assert layer.weight.grad.abs().max() < 1e-4


def test_scores_come_from_classifiers_that_did_not_see_the_film():
    """Two clips of each film share a feature of their own, so only a classifier fitted to the film knows it."""
    source = marked_splits(60)["train"]
    samples = headroom.draw_samples(source, 1, np.random.default_rng(1))
    films = np.arange(60) // 3 // 2 * 3 + np.arange(60) % 3  # clips of one label, which is clip % 3
    private = torch.eye(60)[torch.from_numpy(films[samples.clips])]
    samples = headroom.Samples(**(vars(samples) | {"slices": private}))
    fitted = headroom.fit_classifier(private, samples.labels, 3, 1e-4)(private).log_softmax(1)
    assert fitted.gather(1, samples.labels[:, None]).min() > np.log(0.9)
    scores = headroom.cross_fitted_scores(samples, films.astype(str), 3, 1e-4, np.random.default_rng(0))
    assert scores.max() < np.log(0.8)  # only the frequencies of the classes in the other half


def test_values_are_fitted_within_clips():
    """Large differences between clips do not disturb the fit."""
    generator = torch.Generator().manual_seed(0)
    clips = np.repeat(np.arange(40), 24)
    before = torch.randn(960, 3, generator=generator)
    scores = before[:, 0] + torch.randn(40, generator=generator)[clips]
    before[:, 0] += 30 * torch.randn(40, generator=generator)[clips]
    zeros = torch.zeros(960, 1)
    samples = headroom.Samples(clips, zeros, zeros, zeros, zeros, zeros, before, zeros)
    value = headroom.fit_values(samples, scores, 1e-2)
    assert headroom.predictability(value, samples, scores) > 0.99


def test_places_are_compared_with_others_of_their_clip():
    """Cell 0 is seen in an easy clip, and is the worse of the two there; cell 3 is never seen."""
    clips, cells = np.array([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 2, 2])
    scores = torch.tensor([-1.0, -1.0, -0.5, -8.0, -9.0, -9.0])
    zeros = torch.zeros(6, 1)
    samples = headroom.Samples(clips, zeros, zeros, zeros, cells, zeros, zeros, zeros)
    values = headroom.values_of_places(samples, scores, 4)
    # means of the clips are -2.5 / 3 and -26 / 3: cell 0 is 1 / 6 below, cell 2 1 / 3, cell 1 (1 / 3 + 2 / 3) / 2 above
    assert values.tolist() == pytest.approx([-1 / 6, 1 / 2, -1 / 3, -np.inf])


def moving_splits():
    """Return clips in which the cell that shows the class moves, is marked one frame before, and is often cell 0."""
    splits = {}
    for seed, split in enumerate(("train", "validation", "test")):
        rng = np.random.default_rng(seed)
        places = np.where(rng.random((90, 4)) < 0.2, 0, rng.integers(0, 9, (90, 4)))
        features = rng.uniform(0, 0.01, (90, 3, 9, 4)).astype(np.float32)
        labels, frames = np.arange(90) % 3, np.arange(3)
        for clip in range(90):
            features[clip, frames, places[clip, 1:], 3] += 1  # marks the cell that shows the class in the next frame
            features[clip, frames[1:], places[clip, 1:-1], labels[clip]] += 1  # frame 1 does not show it
        names = tuple("abc")
        splits[split] = ArraySource(features=features.reshape(90, 3, 3, 3, 4), labels=labels, class_names=names)
    return splits


def test_cells_are_chosen_by_the_frame_before():
    """A rule that saw the frame itself would look at the mark in it, which shows the next cell and not the class."""
    splits = moving_splits()
    names = [f"run/Film{clip // 2:02}_run_h_nm_np1_ba_goo_{clip % 2}" for clip in range(90)]  # two of a film
    found = headroom.measure(splits | {"test": dataclasses.replace(splits["test"], clip_ids=names)}, glimpses=1, seed=1)
    assert found.films.tolist() == [f"Film{clip // 2:02}" for clip in range(90)]
    accuracy = {rule: shares.mean() for rule, shares in found.right.items()}
    assert accuracy["content"] > 0.95
    assert accuracy["random"] < accuracy["fixed"] < 0.8


def test_clips_of_one_film_count_together_in_an_interval():
    gains = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    right = {"random": np.zeros(6), "content": gains}
    apart = headroom.Headroom(right, 0.0, np.arange(6).astype(str)).gain("content")
    alone = mean_interval(gains)
    assert (apart.mean, apart.half) == pytest.approx((alone.mean, alone.half))
    together, films = headroom.Headroom(right, 0.0, np.array(list("aabbcc"))).gain("content"), [1.0, 0.0, 0.0]
    assert (together.mean, together.half) == pytest.approx((mean_interval(films).mean, mean_interval(films).half))
    one_film = headroom.Headroom(right, 0.0, np.array(list("aaaaaa"))).gain("content")
    assert (one_film.half, one_film.note) == (np.inf, ONE_FILM)


@pytest.mark.parametrize("glimpses", [0, 10])
def test_a_number_of_glimpses_outside_the_grid_is_refused(glimpses):
    with pytest.raises(ValueError, match=rf"glimpses must lie in 1..9, got {glimpses}"):
        headroom.measure(marked_splits(6), glimpses=glimpses, seed=1)


def test_untrimmed_clips_are_refused():
    splits = {split: UntrimmedSyntheticSource(split) for split in ("train", "validation", "test")}
    with pytest.raises(ValueError, match="the source must hold trimmed clips"):
        headroom.measure(splits, glimpses=1, seed=1)


def test_the_table_is_printed(tmp_path, capsys):
    store = write_marked_store(tmp_path / "marked")
    headroom.main(headroom.Arguments(source=str(store), glimpses=2))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "6 test clips, 2 of 9 cells a frame, 3 classes"
    rules = ["random", "fixed", "content", "content, new", "confident", "detector", "actor", "all", "hindsight"]
    assert [line[:14].strip() for line in lines[3:]] == rules
