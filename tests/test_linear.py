"""Logistic regression on the inputs of the class head."""

import numpy as np
import pytest
import torch
from agent_toys import marked_source, tiny_config
from glimpse_agents.learning.models import MODELS
from glimpse_agents.playing.envs import greedy_play, make_envs, make_policy
from glimpse_agents.playing.linear import PENALTIES, Seen, fit_linear, see_split
from glimpse_agents.reinforce import train
from glimpse_agents.runs.folder import RunFolder
from glimpse_agents.runs.trainer import Trainer
from sklearn.linear_model import LogisticRegression


def frames_of(episodes, seed, *, classes=3, width=5, noise=2.0):
    """Return episodes of 4 noisy frames; the label moves the mean of one channel."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=episodes)
    inputs = generator.normal(size=(episodes, 4, width)) * noise + 2 * np.eye(width)[labels][:, None]
    one_hot = torch.eye(classes, dtype=torch.bool)[torch.from_numpy(labels)]
    return Seen(torch.from_numpy(inputs).float(), one_hot[:, None].expand(-1, 4, -1)), labels


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
    split = Seen(inputs, labels)
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
    if model == "mean":
        torch.testing.assert_close(seen.inputs, torch.from_numpy(source.features).mean((2, 3)))


def linear_config(**settings):
    return tiny_config(encoder="sum", linear_start=True, **settings)


def test_inputs_stand_until_the_next_observed_frame():
    config, source = tiny_config(jumps=(2,), abstain=False), marked_source(6, frames=5)
    envs, policy = make_envs(config, source, 6, train=False), make_policy(config, source).eval()
    seen = see_split(envs, policy, greedy_play(config), seed=0)
    assert seen.inputs.shape[:2] == seen.frame_labels.shape[:2] == (6, 5)
    assert torch.equal(seen.inputs[:, 0::2][:, :2], seen.inputs[:, 1::2])  # frames 1, 3 and 5 are observed
    assert not torch.equal(seen.inputs[:, 1], seen.inputs[:, 2])


def test_a_network_starts_as_the_classifier_and_keeps_it_if_training_does_not_help(tmp_path):
    sources = {split: marked_source(9) for split in ("train", "validation", "test")}
    config = linear_config(learning_rate=1e-30, scorer_learning_rate=1e-30, updates=2, validate_every=1, model="mean")
    result = train(config, tmp_path / "run", sources=sources)
    assert result.best_update == 0
    rows = RunFolder(tmp_path / "run").metrics()
    assert rows[0]["update"] == 0
    assert rows[0]["validation/log_score"] == pytest.approx(rows[-1]["validation/log_score"], abs=1e-4)
    trainer = Trainer(config.for_source(sources["train"]), sources)
    trainer.start_from_linear()
    linear = trainer.policy.class_head.linear
    seen = see_split(trainer.validation_envs, trainer.policy.eval(), greedy_play(config), seed=3)
    hidden = torch.randn(9, 4, config.policy.hidden_size)
    with torch.no_grad():
        torch.testing.assert_close(trainer.policy.class_head(hidden, seen.inputs, None), linear(seen.inputs))
    assert linear.weight.abs().max() > 0


def test_models_that_learn_attention_have_no_linear_classifier():
    source = marked_source(3)
    has = {name: make_policy(linear_config(model=name), source).class_head.linear is not None for name in MODELS}
    assert {name for name in MODELS if has[name]} == {"mean", "max"}
