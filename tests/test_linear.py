"""Logistic regression on the inputs of the class head."""

import dataclasses

import numpy as np
import pytest
import torch
from agent_toys import marked_source, tiny_config
from glimpse_agents.learning.policy import ClassHead
from glimpse_agents.playing import linear
from glimpse_agents.playing.envs import greedy_play, make_envs, make_policy
from glimpse_agents.playing.evaluation import evaluate_split, play_split, video_labels
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


def test_some_clips_can_be_seen():
    config, source = linear_config(model="mean"), marked_source(9)
    envs, policy = make_envs(config, source, 2, train=False), make_policy(config, source).eval()
    clips = np.array([1, 3, 4])
    some = see_split(envs, policy, greedy_play(config), seed=0, clips=clips)
    whole = see_split(envs, policy, greedy_play(config), seed=0)
    torch.testing.assert_close(some.inputs, whole.inputs[clips])


def test_a_constant_channel_does_no_harm():
    seen, _ = frames_of(60, 0, noise=0.2)
    constant = seen._replace(inputs=torch.cat([seen.inputs, torch.full((60, 4, 1), 3.0)], 2))
    answers = fit_linear(constant, constant, 3)[0](constant.inputs).argmax(-1)
    assert (answers == seen.frame_labels.float().argmax(-1)).all()


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


def test_logits_are_the_weighted_sum():
    head, alone = (ClassHead(config.policy, 4, 3) for config in (linear_config(), tiny_config(encoder="sum")))
    head.load_state_dict(alone.state_dict(), strict=False)
    hidden, inputs, classifier = (
        torch.randn(2, 5, alone.classes.in_features),
        torch.randn(2, 5, 4),
        torch.nn.Linear(4, 3),
    )
    network = alone(hidden, inputs, None)
    assert torch.equal(head(hidden, inputs, None), network)
    head.add_linear(classifier, (0.3, 1.4))
    torch.testing.assert_close(head(hidden, inputs, None), 0.3 * network + 1.4 * classifier(inputs))
    head.remove_linear()
    assert torch.equal(head(hidden, inputs, None), network)


@pytest.mark.parametrize("model", ["mean", "random"])
def test_a_network_that_learned_nothing_gets_the_linear_classifier(tmp_path, monkeypatch, model):
    monkeypatch.setattr(trainer, "MAX_FRAMES", 120)  # of 30 clips
    sources = {split: marked_source(60) for split in ("train", "validation", "test")}
    settings = {"learning_rate": 1e-30, "scorer_learning_rate": 1e-30, "updates": 1, "model": model}
    alone = train(tiny_config(encoder="sum", **settings), tmp_path / "alone", sources=sources)
    config = linear_config(**settings)
    finished = train(config, tmp_path / "finished", sources=sources)
    assert alone.logit_weights is None
    assert finished.logit_weights[1] > 0
    assert finished.validation.log_score > alone.validation.log_score
    assert finished.test.accuracy > alone.test.accuracy
    run = RunFolder(tmp_path / "finished")
    assert run.finished() == finished
    policy = run.best_policy(run.record().config, sources["train"])
    assert evaluate_split(run.record().config, policy, sources["test"]) == finished.test


def test_the_classifier_of_a_large_split_is_fitted_to_a_part_of_it(tmp_path, monkeypatch):
    sources = {split: marked_source(60) for split in ("train", "validation", "test")}
    weights = []
    for frames in (240, 120):  # all clips have 240
        monkeypatch.setattr(trainer, "MAX_FRAMES", frames)
        run = RunFolder(tmp_path / str(frames))
        train(linear_config(learning_rate=1e-30, updates=1, model="mean"), run.path, sources=sources)
        weights.append(run.load_best()["class_head.linear_weight"])
    assert all(weight.any() for weight in weights)
    assert not torch.equal(*weights)


def test_the_network_stays_as_it_is_if_validation_prefers_it(tmp_path, monkeypatch):
    monkeypatch.setattr(linear, "SCALES", (-2.0,))
    monkeypatch.setattr(linear, "LINEAR_SHARES", (1.0,))  # so the sum prefers wrong classes
    sources = {split: marked_source(9) for split in ("train", "validation", "test")}
    alone = train(tiny_config(encoder="sum"), tmp_path / "alone", sources=sources)
    finished = train(linear_config(), tmp_path / "finished", sources=sources)
    assert finished.logit_weights is None
    assert finished.validation == alone.validation
    assert finished.test == alone.test


def test_a_run_that_was_killed_before_its_result_gets_the_same_classifier(tmp_path):
    sources = {split: marked_source(9) for split in ("train", "validation", "test")}
    run = RunFolder(tmp_path / "run")
    first = train(linear_config(), run.path, sources=sources)
    weights = run.load_best()
    (run.path / "evaluation.json").unlink()
    again = train(linear_config(), run.path, sources=sources)
    assert again.logit_weights == first.logit_weights
    assert again.test == first.test
    assert all(torch.equal(weights[name], tensor) for name, tensor in run.load_best().items())


def test_a_network_is_kept_if_nothing_on_validation_has_a_class(tmp_path):
    sources = {split: marked_source(9) for split in ("train", "test")}
    sources["validation"] = dataclasses.replace(marked_source(9), labels=np.full(9, -1))
    result = train(linear_config(chosen_by="log_score"), tmp_path / "run", sources=sources)
    assert result.validation.log_score is None
    assert result.test is not None
