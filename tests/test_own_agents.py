"""Agents that were trained elsewhere: measured by hand and as our own models are, and compared with them."""

import dataclasses
import itertools

import glimpse_agents
import numpy as np
import pytest
from agent_toys import marked_source, marked_splits, tiny_config, write_marked_store
from finished_runs import run_main
from glimpse_agents import compare, compute, reinforce
from glimpse_agents.learning.config import Config
from glimpse_agents.pack import pack
from glimpse_agents.playing import evaluation
from glimpse_agents.playing.envs import greedy_play, make_envs, make_policy
from glimpse_agents.runs.folder import RunFolder, find_runs
from glimpse_agents.runs.own_agents import evaluate, save_run

from glimpse_env import SlidingWindows

CELLS = 9


class Detective:
    """Looks at the cell that is marked in the first frame and at another one, and predicts the class of the first."""

    def __init__(self, *, scores=False):
        self.gives_scores, self.resets = scores, []

    def reset(self, num_envs):
        self.resets.append(num_envs)
        self.place = None

    def __call__(self, observations):
        slices = observations.reshape(len(observations), CELLS, -1)
        if self.place is None:
            self.place = slices[..., 0].argmax(1)
            classes = np.zeros(len(slices), np.int64)
        else:
            classes = slices[np.arange(len(slices)), self.place, 1:].argmax(1)
        actions = np.stack([self.place, (self.place + 1) % CELLS, classes], 1)
        return (actions, np.eye(3)[classes] * 0.8) if self.gives_scores else actions


@pytest.mark.parametrize("scores", [False, True])
def test_measures_by_hand(scores):
    """Twelve clips of three classes, four frames: the first prediction is class a, the other three are right."""
    agent = Detective(scores=scores)
    measured = evaluate(agent, marked_source(12), glimpses=2, num_envs=5)
    assert agent.resets == [5, 5, 5]
    assert (measured.accuracy, measured.vote_accuracy, measured.top3) == (1.0, 1.0, 1.0)
    assert measured.accuracy_by_frames == pytest.approx((1 / 3, 1 / 3, 1.0, 1.0))  # of a tie the first class counts
    assert measured.true_positives == pytest.approx(3 + 1 / 3)
    assert measured.false_positives == pytest.approx(2 / 3)
    assert measured.reward == pytest.approx((3 + 1 / 3 - 2 / 3) / 2)
    assert (measured.focus, measured.focus_per_look, measured.glimpses_per_frame) == (1.0, 0.5, 2.0)
    assert measured.attention_on_actor == pytest.approx(0.5)
    assert measured.entropy is None
    assert np.sum(measured.visits) == pytest.approx(1)
    assert measured.correct == (True,) * 12


def test_the_measures_are_those_of_our_own_evaluation():
    """An agent that repeats the actions and the class scores of a network has all of its measures."""
    source, config = marked_source(10), tiny_config(model="reinforce", abstain=False)
    policy = make_policy(config, source).eval()
    ours = evaluation.evaluate(make_envs(config, source, 4, train=False), policy, greedy_play(config), seed=0)
    rollouts = [r for r, _ in evaluation.play_split(make_envs(config, source, 4, train=False), policy,
                                                     greedy_play(config), seed=0)]  # fmt: skip

    class Repeater:
        batch = -1

        def reset(self, num_envs):
            self.batch, self.frame = self.batch + 1, -1

        def __call__(self, observations):
            self.frame += 1
            rollout = rollouts[self.batch]
            cells = rollout.cells[:, min(self.frame, 2)].numpy()
            scores = rollout.class_logits[:, self.frame].softmax(1).numpy()
            return np.concatenate([cells, rollout.predictions[:, self.frame, None].numpy()], 1), scores

    theirs = evaluate(Repeater(), source, glimpses=2, observation="slices", num_envs=4)
    assert theirs.films == ours.films
    for field in dataclasses.fields(theirs):
        if field.name not in ("entropy", "films"):
            expected, found = getattr(ours, field.name), getattr(theirs, field.name)
            np.testing.assert_allclose(np.array(found, float), np.array(expected, float), rtol=1e-5, err_msg=field.name)


def test_the_rest_of_the_scores_is_no_prediction():
    scores = itertools.cycle([[0.1, 0.0, 0.0], [0.0, 0.4, 0.0]])  # of the odd and the even frames

    def agent(observations):
        actions = np.tile([0, 1, 3], (len(observations), 1))  # "no prediction"
        return actions, np.tile(next(scores), (len(observations), 1))

    measured = evaluate(agent, marked_source(6), glimpses=2, abstain=True, num_envs=6)
    assert (measured.true_positives, measured.false_positives) == (0.0, 0.0)
    assert measured.accuracy == pytest.approx(1 / 3)
    assert measured.log_score == pytest.approx((np.log(0.2) + np.log(0.8) + np.log(1e-8)) / 3)
    without = evaluate(lambda seen: agent(seen)[0], marked_source(6), glimpses=2, abstain=True, num_envs=6)
    assert without.vote_accuracy == 0.0


def test_an_unlimited_agent_may_look_nowhere():
    def agent(observations):
        return np.concatenate([np.zeros((len(observations), CELLS), np.int64), np.ones((len(observations), 1), int)], 1)

    measured = evaluate(agent, marked_source(6), glimpses=None, num_envs=6)
    assert (measured.glimpses_per_frame, measured.focus, measured.accuracy) == (0.0, 0.0, pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((4, 2)), r"class scores must be .* of shape \(4, 3\), got \(4, 2\)"),
        (np.full((4, 3), -1.0), "class scores must be finite, not negative"),
        (np.full((4, 3), np.nan), "class scores must be finite, not negative"),
    ],
)
def test_wrong_scores_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        evaluate(lambda seen: (np.zeros((4, 3), np.int64), scores), marked_source(4), glimpses=2, num_envs=4)


def test_a_list_of_actions_and_scores_is_refused():
    with pytest.raises(ValueError, match="must return an array of actions, or a tuple of actions and scores: setting"):
        evaluate(lambda seen: [np.zeros((len(seen), 3)), np.ones((len(seen), 4))], marked_source(12), glimpses=2)


def test_wrong_actions_are_refused():
    with pytest.raises(ValueError, match="action"):
        evaluate(lambda seen: np.full((4, 3), 99), marked_source(4), glimpses=2, num_envs=4)


# ---- in tables


@pytest.fixture
def compared(tmp_path):
    """A folder with a run of ours and one of an agent that was trained elsewhere, on one store."""
    store = str(write_marked_store(tmp_path / "store"))
    reinforce.train(tiny_config(source=store), tmp_path / "runs" / "reinforce")
    test, validation = (evaluate(Detective(), store, split, glimpses=2) for split in ("test", "validation"))
    save_run(
        tmp_path / "runs" / "detective", "detective", test, validation=validation, source=store, glimpses=2,
        train_seconds=3.0,
    )  # fmt: skip
    return tmp_path / "runs"


def test_an_own_run_stands_in_the_table_with_ours(compared, capsys):
    run_main(compare, "--runs", compared)
    lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line or line.startswith("|")]
    assert any("detective" in line and "1.000" in line for line in lines), lines
    assert any("REINFORCE" in line for line in lines)


def test_an_own_run_records_its_task_and_result(compared):
    ours, own = find_runs(compared)
    assert [run.path.name for run in (ours, own)] == ["reinforce", "detective"]
    record, result = own.record(), own.finished()
    assert record.config.task == ours.record().config.task
    assert record.source == ours.record().source
    assert record.config.model == "own:detective"
    assert (result.measured.accuracy, result.validation.accuracy, result.train_seconds) == (1.0, 1.0, 3.0)


def test_a_result_is_replaced_and_another_agent_is_refused(compared):
    test = evaluate(Detective(), marked_source(6), glimpses=2)
    path, store = compared / "detective", RunFolder(compared / "detective").record().config.task.source
    save_run(path, "detective", test, source=store, glimpses=2)
    assert RunFolder(path).finished().validation is None
    with pytest.raises(ValueError, match=r"detective holds a run with other settings of model: choose another"):
        save_run(path, "amateur", test, source=store, glimpses=2)


def test_two_runs_with_one_seed_are_refused_and_no_training_of_ours_is_claimed(compared, capsys):
    path, store = compared / "detective", RunFolder(compared / "detective").record().config.task.source
    run_main(compare, "--runs", path)
    printed = capsys.readouterr().out
    assert "updates of" not in printed
    assert "Validation chose" not in printed
    run_main(compare, "--runs", compared, path)  # names the run twice
    assert capsys.readouterr().out.count("| detective") == 1
    test = evaluate(Detective(), store, glimpses=2)
    save_run(compared / "again", "detective", test, source=store, glimpses=2)
    message = (
        r"again and .*detective are both of own:detective, seed 1, fold 1: leave one out, or give each its own seed"
    )
    with pytest.raises(ValueError, match=message):
        run_main(compare, "--runs", compared)
    save_run(compared / "third", "detective", test, source=store, glimpses=2, seed=2)
    run_main(compare, "--runs", path, compared / "third")
    assert "| detective" in capsys.readouterr().out


def test_results_of_another_split_or_length_are_refused(tmp_path):
    store = str(write_marked_store(tmp_path / "store"))
    with pytest.raises(ValueError, match="test measures 12 videos, and the test split has 6: pass what evaluate retu"):
        save_run(tmp_path / "run", "detective", evaluate(Detective(), store, "train", glimpses=2), source=store)
    shorter = evaluate(Detective(), store, glimpses=2, frames=3)
    with pytest.raises(ValueError, match="test measures episodes of 3 frames, and the task has 4: give evaluate and"):
        save_run(tmp_path / "run", "detective", shorter, source=store)
    save_run(tmp_path / "run", "detective", shorter, source=store, frames=3)
    source, windows = marked_source(6), {"glimpses": 2, "window_seconds": 0.2}
    windowed = evaluate(Detective(), source, **windows)
    save_run(tmp_path / "windows", "detective", windowed, source=source, **windows)


def test_a_packed_run_and_a_folder_share_a_table(compared, tmp_path, capsys):
    pack(RunFolder(compared / "reinforce"), tmp_path / "ours.safetensors")
    run_main(compare, "--runs", tmp_path / "ours.safetensors", compared / "detective")
    printed = capsys.readouterr().out
    assert "| detective" in printed
    assert "| REINFORCE" in printed


@pytest.mark.parametrize("title", ["", " ", "two\nlines"])
def test_a_title_is_one_line(tmp_path, title):
    with pytest.raises(ValueError, match="title must be one line of text, got "):
        save_run(tmp_path, title, None)


def test_an_own_run_cannot_be_trained_or_played(compared):
    with pytest.raises(ValueError, match="'own:detective' was trained elsewhere, and cannot be trained or played here"):
        glimpse_agents.load(compared / "detective")
    with pytest.raises(ValueError, match="'own:detective' was trained elsewhere, and cannot be trained or played here"):
        compute.measure(compute.Arguments(compared / "detective"))
    config = RunFolder(compared / "detective").record().config
    with pytest.raises(ValueError, match="'own:detective' was trained elsewhere, and cannot be trained or played here"):
        reinforce.train(config, compared / "detective2")
    with pytest.raises(ValueError, match=r"model must be one of .*, got 'own:'"):
        Config(model="own:")


# ---- our algorithm on own sources


def test_training_on_own_sources_records_that_they_have_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = glimpse_agents.train(tiny_config(), sources=marked_splits())
    (path,) = (tmp_path / "runs").iterdir()
    assert RunFolder(path).record().config.task.source == "own:clips"
    assert RunFolder(path).finished() == result
    named = tiny_config(source="mine")
    glimpse_agents.train(named, tmp_path / "named", sources=marked_splits())
    assert RunFolder(tmp_path / "named").record().config.task.source == str(tmp_path / "mine")


def test_windows_slide_over_own_sources(tmp_path):
    config = tiny_config(window_seconds=0.2, abstain=False)
    glimpse_agents.train(config, tmp_path, sources=marked_splits())
    assert RunFolder(tmp_path).record().source.frames == 2  # of four, at ten per second
    assert len(RunFolder(tmp_path).finished().measured.accuracy_by_frames) == 2
    longer = {split: SlidingWindows(source=clips, window_seconds=0.3) for split, clips in marked_splits().items()}
    with pytest.raises(ValueError, match=r"the train source has windows of 0.3 s, and window_seconds is 0.2: give"):
        glimpse_agents.train(config, tmp_path / "other", sources=longer)


def test_an_own_agent_cannot_jump():
    with pytest.raises(ValueError, match="jumps must be None, since all episodes of a batch end together here"):
        evaluate(lambda _: None, source="synthetic-easy", jumps=(1, 2))


def test_the_package_offers_what_its_page_names():
    assert set(glimpse_agents.__all__) == {"evaluate", "load", "save_run", "train"}
    assert glimpse_agents.evaluate is evaluate
    with pytest.raises(AttributeError, match="module 'glimpse_agents' has no attribute 'predictor'"):
        glimpse_agents.predictor  # noqa: B018
