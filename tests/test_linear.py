"""Logistic regression on the inputs of the class head."""

import numpy as np
import pytest
import torch
from agent_toys import marked_source, tiny_config
from glimpse_agents.playing.envs import greedy_play, make_envs, make_policy
from glimpse_agents.playing.evaluation import play_split, video_labels
from glimpse_agents.playing.linear import PENALTIES, Seen, fit_linear, see_split, weigh_logits
from glimpse_agents.reinforce import train
from glimpse_agents.runs import trainer
from glimpse_agents.runs.folder import RunFolder
from sklearn.linear_model import LogisticRegression


def frames_of(episodes, seed, *, classes=3, width=5, noise=2.0):
    """Return episodes of 4 noisy frames; the label moves the mean of one channel."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=episodes)
    inputs = generator.normal(size=(episodes, 4, width)) * noise + 2 * np.eye(width)[labels][:, None]
    one_hot = torch.eye(classes, dtype=torch.bool)[torch.from_numpy(labels)]
    seen = Seen(torch.from_numpy(inputs).float(), one_hot[:, None].expand(-1, 4, -1), torch.zeros(episodes, 4, classes))
    return seen, labels


def test_the_classifier_is_that_of_scikit_learn():
    (train_split, labels), (validation, _) = frames_of(60, 0), frames_of(40, 1)
    classifier, penalty = fit_linear(train_split, validation, 3)
    inputs = train_split.inputs.flatten(0, 1).numpy()
    scale = inputs.std(0, ddof=1)
    other = LogisticRegression(C=1 / (penalty * len(inputs)), tol=1e-8).fit(inputs / scale, labels.repeat(4))
    expected = other.predict_proba(validation.inputs.flatten(0, 1).numpy() / scale)
    found = classifier(validation.inputs).softmax(-1).flatten(0, 1).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_validation_chooses_the_penalty():
    noisy, clean = frames_of(12, 0, width=40), frames_of(400, 0, noise=0.2)
    held_out = frames_of(300, 1, width=40)[0], frames_of(300, 1, noise=0.2)[0]
    strong, weak = fit_linear(noisy[0], held_out[0], 3)[1], fit_linear(clean[0], held_out[1], 3)[1]
    assert weak == min(PENALTIES)
    assert strong > 10 * weak


def test_background_frames_are_silence_if_the_agent_may_abstain():
    seen, _ = frames_of(60, 0, noise=0.5)
    labels = seen.frame_labels.clone()
    labels[:, 2:] = False
    inputs = seen.inputs.clone()
    inputs[:, 2:, 4] += 5
    split = Seen(inputs, labels, torch.zeros(60, 4, 4))
    answers = fit_linear(split, split, 4)[0](inputs).argmax(-1)
    assert (answers[:, 2:] == 3).all()
    assert (answers[:, :2] != 3).float().mean() > 0.9


@pytest.mark.parametrize("model", ["reinforce", "random", "soft", "gumbel", "mean", "all"])
def test_inputs_are_those_of_the_class_head_in_every_frame(model):
    source, config = marked_source(5), tiny_config(model=model, encoder="sum", frame_embedding=False)
    policy = make_policy(config, source).eval()
    seen = see_split(make_envs(config, source, 2, train=False), policy, greedy_play(config), seed=1)
    assert seen.inputs.shape == (5, 4, 4)
    assert seen.frame_labels.shape == (5, 4, len(source.class_names))
    rollouts = play_split(make_envs(config, source, 2, train=False), policy, greedy_play(config), seed=1)
    torch.testing.assert_close(seen.class_logits, torch.cat([rollout.class_logits[:n] for rollout, n in rollouts]))
    if model == "mean":
        torch.testing.assert_close(seen.inputs, torch.from_numpy(source.features).mean((2, 3)))


def linear_config(**settings):
    return tiny_config(encoder="sum", linear_finish=True, **settings)


def test_inputs_stand_until_the_next_observed_frame():
    config, source = tiny_config(jumps=(2,), abstain=False), marked_source(6, frames=5)
    envs, policy = make_envs(config, source, 6, train=False), make_policy(config, source).eval()
    seen = see_split(envs, policy, greedy_play(config), seed=0)
    assert seen.inputs.shape[:2] == seen.frame_labels.shape[:2] == (6, 5)
    assert torch.equal(seen.inputs[:, 0::2][:, :2], seen.inputs[:, 1::2])  # frames 1, 3 and 5 are observed
    assert not torch.equal(seen.inputs[:, 1], seen.inputs[:, 2])


def test_every_other_clip_can_be_seen():
    config, source = linear_config(model="mean"), marked_source(9)
    envs, policy = make_envs(config, source, 2, train=False), make_policy(config, source).eval()
    some, whole = (see_split(envs, policy, greedy_play(config), seed=0, every=every) for every in (2, 1))
    assert len(some.inputs) == 5
    torch.testing.assert_close(some.inputs, whole.inputs[::2])


def logits_of(source, *, right, confidence):
    """Return logits of 4 frames that name the true class of a share of the clips, and the next class of the others."""
    truths = torch.from_numpy(video_labels(source)).float()
    count = int(right * len(truths))
    answers = torch.cat([truths[:count], truths[count:].roll(1, 1)])
    return confidence * answers[:, None].expand(-1, 4, -1)


def test_the_better_classifier_has_the_larger_weight():
    source = marked_source(20)
    good, bad = logits_of(source, right=0.9, confidence=3.0), logits_of(source, right=0.4, confidence=3.0)
    assert np.less(*weigh_logits(bad, good, source))
    assert np.greater(*weigh_logits(good, bad, source))


def test_logits_that_are_too_sure_are_scaled_down_and_others_up():
    source, nothing = marked_source(20), torch.zeros(20, 4, 3)
    assert weigh_logits(logits_of(source, right=0.7, confidence=9.0), nothing, source)[0] < 0.5
    assert weigh_logits(logits_of(source, right=0.9, confidence=0.5), nothing, source) == (2.0, 0.0)


@pytest.mark.parametrize("model", ["mean", "random"])
def test_a_network_that_learned_nothing_is_finished_by_the_linear_classifier(tmp_path, model):
    sources = {split: marked_source(30) for split in ("train", "validation", "test")}
    settings = {"learning_rate": 1e-30, "scorer_learning_rate": 1e-30, "updates": 1, "model": model}
    alone = train(tiny_config(encoder="sum", **settings), tmp_path / "alone", sources=sources)
    finished = train(linear_config(**settings), tmp_path / "finished", sources=sources)
    assert alone.logit_weights is None
    assert finished.logit_weights[1] > 0
    assert finished.validation.log_score > alone.validation.log_score
    assert finished.test.accuracy > alone.test.accuracy
    assert RunFolder(tmp_path / "finished").finished() == finished


def test_the_network_stays_as_it_is_if_validation_prefers_it(tmp_path, monkeypatch):
    sources = {split: marked_source(9) for split in ("train", "validation", "test")}
    monkeypatch.setattr(trainer, "weigh_logits", lambda *_: (0.0, -1.0))  # the worst that it can be
    alone = train(tiny_config(encoder="sum"), tmp_path / "alone", sources=sources)
    finished = train(linear_config(), tmp_path / "finished", sources=sources)
    assert finished.logit_weights is None
    assert finished.validation == alone.validation
    assert finished.test == alone.test


def test_a_run_that_was_killed_before_its_result_is_finished_once(tmp_path):
    sources = {split: marked_source(9) for split in ("train", "validation", "test")}
    run = RunFolder(tmp_path / "run")
    first = train(linear_config(), run.path, sources=sources)
    weights = run.load_best()
    (run.path / "evaluation.json").unlink()
    again = train(linear_config(), run.path, sources=sources)
    assert again.logit_weights == first.logit_weights
    assert again.test == first.test
    assert all(torch.equal(weights[name], tensor) for name, tensor in run.load_best().items())
