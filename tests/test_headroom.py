"""How much choosing could gain: on clips where looking at the right cell is all, the rules come out in that order."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from agent_toys import marked_splits, write_marked_store

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import headroom


def lonely_splits():
    """Return clips in which no cell but the actor's shows anything."""
    splits = marked_splits(90, frames=6)
    return {
        name: dataclasses.replace(source, features=source.features * np.float32(source.actors[..., None] + 0.01))
        for name, source in splits.items()
    }


@pytest.fixture(scope="module")
def found():
    return headroom.measure(lonely_splits(), glimpses=1, seed=1)


def test_who_finds_the_actor_knows_more(found):
    accuracy = {rule: shares.mean() for rule, shares in found.right.items()}
    assert accuracy["actor"] > accuracy["random"] + 0.15
    assert accuracy["content"] == pytest.approx(accuracy["actor"], abs=0.02)  # the mark tells where the score is high
    assert accuracy["fixed"] < accuracy["random"] + 0.1  # the actor is anywhere
    assert accuracy["content, new"] < accuracy["content"]  # and stays there
    assert accuracy["hindsight"] == accuracy["all"] == 1.0
    assert found.predictability > 0.2


def test_gains_are_paired_by_clip(found):
    gain, half = found.gain("actor")
    assert gain == pytest.approx(found.right["actor"].mean() - found.right["random"].mean())
    assert 0 < half < 0.2
    assert found.gain("random") == (0.0, 0.0)


def test_the_same_seed_gives_the_same(found):
    again = headroom.measure(lonely_splits(), glimpses=1, seed=1)
    for rule, shares in found.right.items():
        np.testing.assert_array_equal(shares, again.right[rule])


def test_the_least_seen_cells_are_taken_first():
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


def test_scores_are_of_classifiers_that_did_not_see_the_video():
    """A feature of its own for every clip tells its label only to who was fitted to it."""
    source = marked_splits(60)["train"]
    samples = headroom.draw_samples(source, 1, np.random.default_rng(1))
    private = torch.eye(60)[torch.from_numpy(samples.clips)]
    samples = headroom.Samples(**(vars(samples) | {"slices": private}))
    fitted = headroom.fit_classifier(private, samples.labels, 3, 1e-4)(private).log_softmax(1)
    scores = headroom.cross_fitted_scores(source, samples, 3, 1e-4)
    assert fitted.gather(1, samples.labels[:, None]).min() > np.log(0.9)
    assert len(scores.round(decimals=4).unique()) <= 6  # nothing but how frequent a class is in the other half


def test_the_table_is_printed(tmp_path, capsys):
    store = write_marked_store(tmp_path / "marked")
    headroom.main(headroom.Arguments(source=str(store), glimpses=2))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "6 test clips, 2 of 9 cells a frame, 3 classes"
    rules = ["random", "fixed", "content", "content, new", "confident", "actor", "all", "hindsight"]
    assert [line[:14].strip() for line in lines[3:]] == rules
