"""Trained models next to logistic regression on the same looks."""

import linear_controls
import pytest
from agent_toys import tiny_config, write_marked_store
from glimpse_agents.playing import linear
from glimpse_agents.playing.evaluation import evaluate
from glimpse_agents.reinforce import train
from glimpse_agents.runs.folder import RunFolder


def test_the_looks_are_those_of_the_test(tmp_path, monkeypatch):
    source, seen = str(write_marked_store(tmp_path / "store")), []
    train(tiny_config(source=source, model="random", seed=3, updates=2), tmp_path / "run")

    def see(envs, policy, settings, *, seed):
        seen.append(evaluate(envs, policy, settings, seed=seed))
        return linear.see_split(envs, policy, settings, seed=seed)

    monkeypatch.setattr(linear_controls, "see_split", see)
    linear_controls.compare(RunFolder(tmp_path / "run"))
    assert seen[-1].visits == RunFolder(tmp_path / "run").finished().measured.visits


@pytest.mark.parametrize(("model", "glimpses"), [("mean", None), ("random", 2)])
def test_a_network_that_learned_nothing_equals_the_classifier_that_finished_it(tmp_path, capsys, model, glimpses):
    source = str(tmp_path / "store")
    write_marked_store(tmp_path / "store")
    config = tiny_config(
        source=source, model=model, encoder="sum", linear_finish=True, frame_embedding=False, glimpses=2,
        learning_rate=1e-9, scorer_learning_rate=1e-9, updates=1,
    )  # fmt: skip
    train(config, tmp_path / "run", progress=None)
    found = linear_controls.compare(RunFolder(tmp_path / "run"))
    assert (found.model, found.glimpses) == (model, glimpses)
    if model == "mean":  # random cells are drawn again, and give another classifier
        assert found.difference.mean == 0
    assert found.network.mean - found.linear.mean == pytest.approx(found.difference.mean)
    linear_controls.main([tmp_path / "run"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("mean " if model == "mean" else "random, m = 2")
    assert lines[-2].split() == ["model", "accuracy", "linear", "difference", "penalty"]
