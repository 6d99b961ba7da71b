"""Tuning: equal effort for every model, on validation alone; trials that resume; and the use of the settings."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest
from agent_toys import Watched, marked_splits, tiny_config, write_marked_store
from finished_runs import run_main, write_config
from glimpse_agents import compare, reinforce
from glimpse_agents import tune as tuning
from glimpse_agents.learning.config import Config
from glimpse_agents.learning.models import MODELS
from glimpse_agents.playing.envs import greedy_play, make_envs, open_splits
from glimpse_agents.playing.evaluation import evaluate
from glimpse_agents.runs.files import read_json, write_json
from glimpse_agents.runs.folder import RunFolder
from glimpse_agents.runs.jobs import OF_A_MODEL, jobs_of_models, read_tuned
from glimpse_agents.tune import ALL, SCORING, Output, judge_trial, parse_arguments, space_of, tune

from glimpse_env import UntrimmedSyntheticSource


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_marked_store(tmp_path_factory.mktemp("store") / "marked"))


@pytest.fixture(scope="module")
def base(store, tmp_path_factory):
    """Return the flag of the configuration that trials start from."""
    return "--config", write_config(tmp_path_factory.mktemp("base"), tiny_config(source=store))


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuning")
    run_main(tuning, *base, "--out", out, "--models", "reinforce", "random", "soft", "--trials", 3)
    return out


# ---- the search


def bowl(settings, number):
    return -((np.log10(settings["learning_rate"]) + 2.5) ** 2) - (settings["dropout"] - 0.4) ** 2


SPACE = {name: ALL[name] for name in ("learning_rate", "dropout")}
FIRST = {"learning_rate": 3e-4, "dropout": 0.8}


def test_the_best_trial_is_returned_and_the_base_is_the_first():
    seen = []

    def judge(settings, number):
        assert number == len(seen)
        seen.append(settings)
        return bowl(settings, number)

    best, value = tune(judge, SPACE, FIRST, trials=12, seed=1)
    assert seen[0] == FIRST
    assert value == max(bowl(settings, 0) for settings in seen) == bowl(best, 0) > bowl(FIRST, 0)


def test_the_base_is_kept_if_nothing_is_better():
    assert tune(lambda _, number: -number, SPACE, FIRST, trials=4, seed=1) == (FIRST, 0)


def test_draws_depend_on_the_seed_and_on_earlier_scores():
    def drawn(judge, seed):
        seen = []

        def judge_and_note(settings, number):
            seen.append(settings)
            return judge(settings, number)

        tune(judge_and_note, SPACE, FIRST, trials=9, seed=seed)
        return seen

    assert drawn(bowl, 1) == drawn(bowl, 1)
    assert drawn(bowl, 2)[1] != drawn(bowl, 1)[1]
    worse = drawn(lambda settings, number: -bowl(settings, number), 1)
    assert worse[:4] == drawn(bowl, 1)[:4]  # the first draws are random
    assert worse[6:] != drawn(bowl, 1)[6:]


def test_a_model_is_tuned_in_the_settings_that_it_depends_on():
    spaces = {name: set(space_of(model)) for name, model in MODELS.items()}
    assert spaces["random"] == spaces["mean"] == set(ALL)
    assert spaces["soft"] == {*ALL, *SCORING}
    assert spaces["gumbel"] == {*spaces["soft"], "random_share"}
    assert spaces["reinforce"] == spaces["unlimited"] == {*spaces["gumbel"], "entropy_bonus"}
    assert spaces["reinforce"] <= OF_A_MODEL  # a model may have these for itself


# ---- trials


def test_every_model_gets_as_many_trials_and_none_is_tested(tuned):
    for model in ("reinforce", "random", "soft"):
        runs = [RunFolder(path) for path in sorted((tuned / model).iterdir())]
        assert [run.path.name for run in runs] == ["trial0", "trial1", "trial2"]
        for run in runs:
            assert run.finished().test is None
            config = run.record().config
            assert (config.model, config.training.updates, config.training.clips) == (model, 6, 3)
        assert runs[0].record().config.training.learning_rate == tiny_config().training.learning_rate


def test_the_best_log_score_chooses(tuned):
    chosen = read_json(tuned / "settings.json")
    assert list(chosen) == ["reinforce", "random", "soft"]
    for model, settings in chosen.items():
        runs = [RunFolder(tuned / model / f"trial{number}") for number in range(3)]
        best = max(runs, key=lambda run: run.finished().validation.log_score)
        assert {name: best.record().config.setting(name) for name in space_of(MODELS[model])} == settings


def test_finished_trials_are_kept_and_trials_can_be_added(base, tuned, tmp_path):
    out = shutil.copytree(tuned, tmp_path / "out")
    weights = out / "soft" / "trial1" / "best.safetensors"
    kept = weights.stat().st_mtime_ns
    run_main(tuning, *base, "--out", out, "--trials", 4, "--models", "soft")
    assert weights.stat().st_mtime_ns == kept
    assert RunFolder(out / "soft" / "trial3").finished()
    assert not (out / "random" / "trial3").exists()
    # Models that have had fewer trials are not compared with one that has had more.
    assert set(read_json(out / "settings.json")) == {"soft"}
    run_main(tuning, *base, "--out", out, "--trials", 4, "--models", "reinforce", "random", "soft")
    assert set(read_json(out / "settings.json")) == {"reinforce", "random", "soft"}
    with pytest.raises(ValueError, match=r"random already has 4 trials, got --trials 3: ask for at least 4"):
        run_main(tuning, *base, "--out", out, "--trials", 3, "--models", "random")


def test_a_trial_is_judged_by_the_log_score_of_the_validation_split(tmp_path, monkeypatch):
    splits = marked_splits(9, kind=Watched)
    sources = splits | {"test": dataclasses.replace(splits["test"], limit=0, count=[])}  # reading it fails
    monkeypatch.setattr("glimpse_agents.runs.jobs.open_splits", lambda config: sources)
    config = tiny_config(source="marked", model="soft", abstain=False)
    score = judge_trial(config, tmp_path / "trial0", {"learning_rate": 5e-3})
    run = RunFolder(tmp_path / "trial0")
    assert run.record().config.training.learning_rate == 5e-3
    policy = run.best_policy(config, splits["train"])
    again = evaluate(make_envs(config, splits["validation"], 4, train=False), policy, greedy_play(config), seed=0)
    assert score == pytest.approx(again.log_score)
    assert score != pytest.approx(again.accuracy)


def test_an_interrupted_trial_resumes(base, tuned, tmp_path, monkeypatch):
    steps, update = [], reinforce.update

    def interrupt(trainer, *played):
        steps.append(trainer.num_updates)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return update(trainer, *played)

    monkeypatch.setattr(reinforce, "update", interrupt)
    words = [*base, "--out", tmp_path, "--trials", 1, "--models", "reinforce", "random"]
    with pytest.raises(KeyboardInterrupt):
        run_main(tuning, *words)
    run_main(tuning, *words)
    assert steps[:7] == [0, 1, 2, 3, 4, 4, 5]
    ours, theirs = ((out / "reinforce" / "trial0" / "best.safetensors").read_bytes() for out in (tmp_path, tuned))
    assert ours == theirs


def test_a_trial_whose_numbers_overflow_has_the_worst_score(base, tmp_path, monkeypatch, capsys):
    def overflow(trainer, *played):
        raise FloatingPointError("the loss is not finite")

    monkeypatch.setattr(reinforce, "update", overflow)
    words = [*base, "--out", tmp_path, "--trials", 2, "--models", "reinforce"]
    run_main(tuning, *words)
    assert read_json(tmp_path / "reinforce" / "trial1" / "failure.json") == {"reason": "the loss is not finite"}
    printed = capsys.readouterr().out
    assert printed.count(f"log-score {np.log(1e-8):.4f}") == 3  # of two trials and of the best
    settings = read_json(tmp_path / "settings.json")
    run_main(tuning, *words)  # a trial counts once, however often it fails
    assert read_json(tmp_path / "settings.json") == settings
    assert settings["reinforce"]["learning_rate"] == tiny_config().training.learning_rate


@pytest.mark.parametrize("fails", [False, True])
def test_trials_of_another_base_are_refused(base, store, tmp_path, monkeypatch, fails):
    def overflow(trainer, *played):
        raise FloatingPointError("the loss is not finite")

    with monkeypatch.context() as patch:
        if fails:
            patch.setattr(reinforce, "update", overflow)
        run_main(tuning, *base, "--out", tmp_path, "--trials", 1, "--models", "random")
    with pytest.raises(ValueError, match="trial0 holds a run with other settings of updates: choose another --out"):
        run_main(tuning, *base, "--out", tmp_path, "--trials", 1, "--models", "random", "--updates", 7)


def test_a_command_line_that_cannot_be_tuned_is_refused():
    with pytest.raises(ValueError, match="--trials must be at least 1, got 0"):
        Output(trials=0)
    with pytest.raises(ValueError, match="--video-score mode: trials are judged by mean scores; leave it out"):
        parse_arguments(["--video-score", "mode"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--models", "unlimited", "--look-cost", "0.1"], "--look-cost 0.1"),
        (["--models", "reinforce", "--jumps", "1", "2", "--frame-cost", "0.3"], "--frame-cost 0.3"),
    ],
)
def test_costs_are_refused_because_a_log_score_has_none(flags, message):
    with pytest.raises(ValueError, match=f"{message}: trials are judged by log-scores, which have no costs"):
        parse_arguments(flags)
    parse_arguments(["--models", "reinforce", "--look-cost", "0.1"])  # the number of looks is fixed


def test_a_model_that_cannot_be_played_is_refused_before_anything_is_trained(base, tmp_path, monkeypatch):
    splits = {name: dataclasses.replace(source, actors=None) for name, source in marked_splits().items()}
    monkeypatch.setattr(tuning, "open_splits", lambda config: splits)
    with pytest.raises(ValueError, match="model 'oracle' needs a source that knows where the actor is"):
        run_main(tuning, *base, "--out", tmp_path / "out", "--models", "random", "oracle")
    assert not (tmp_path / "out").exists()


def test_validation_videos_without_labels_are_refused(base, tmp_path, monkeypatch):
    class Unlabelled(UntrimmedSyntheticSource):
        def segments(self, clip):
            return ()

    monkeypatch.setattr(tuning, "open_splits", lambda config: {"validation": Unlabelled("validation")})
    with pytest.raises(ValueError, match=r"no validation video of .* has a label: trials cannot be judged"):
        run_main(tuning, *base, "--out", tmp_path / "out")


# ---- the use of the settings


def test_comparisons_take_the_settings(store, tuned, tmp_path):
    words = ["--source", store, "--out", str(tmp_path), "--seeds", "1", "--models", "soft", "random"]
    line = compare.parse_arguments([*words, "--tuned", str(tuned / "settings.json")])
    chosen = read_json(tuned / "settings.json")
    for job in compare.jobs_of(line):
        own = chosen[job.config.model]
        assert {name: job.config.setting(name) for name in own} == own
        assert job.config == line.config.with_settings({"model": job.config.model, "seed": 1} | own)


def test_training_takes_the_settings(tmp_path):
    write_json(tmp_path / "settings.json", {"random": {"learning_rate": 0.5}, "reinforce": {}})
    line = reinforce.parse_arguments(["--tuned", str(tmp_path / "settings.json")])
    rates = {
        job.config.model: job.config.training.learning_rate for job in jobs_of_models(line, tmp_path, line.output.tuned)
    }
    assert rates == {"random": 0.5, "reinforce": 3e-3}


def test_a_model_trains_with_its_own_settings_and_the_table_shows_them(base, tmp_path):
    own = {"soft": {"learning_rate": 5e-3, "hidden_size": 5}, "mean": {}, "reinforce": {}}
    write_json(tmp_path / "settings.json", own)
    words = ["--seeds", 1, "--models", "reinforce", "soft", "mean", "--tuned", tmp_path / "settings.json"]
    run_main(compare, *base, "--out", tmp_path / "out", *words)
    runs = {name: RunFolder(tmp_path / "out" / "m2" / "seed1" / name) for name in own}
    assert {name: run.record().config.policy.hidden_size for name, run in runs.items()} == {
        "reinforce": 8, "soft": 5, "mean": 8,
    }  # fmt: skip
    config = runs["soft"].record().config
    runs["soft"].best_policy(config, open_splits(config)["train"])  # weights of other sizes would not load
    shown = (tmp_path / "out" / "table.md").read_text()
    assert "Own settings of soft attention, content and state: hidden_size 5, learning_rate 0.005." in shown
    assert shown.count("Own settings of") == 1


def test_models_can_be_tuned_and_added_later_but_not_changed(base, tmp_path):
    settings, out = tmp_path / "settings.json", tmp_path / "out"
    words = [*base, "--out", out, "--tuned", settings]
    write_json(settings, {"reinforce": {}, "soft": {"learning_rate": 5e-3, "hidden_size": 5}})
    run_main(compare, *words, "--seeds", 1, "--models", "reinforce", "soft")
    write_json(settings, {"soft": {"hidden_size": 6}, "mean": {"learning_rate": 7e-3}})
    run_main(compare, *words, "--seeds", 1, "--models", "mean")
    with (out / "table.csv").open() as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["reinforce", "soft", "mean"]
    with pytest.raises(ValueError, match=r"soft holds a run with other settings of hidden_size, learning_rate"):
        run_main(compare, *words, "--seeds", 1, "--models", "soft")
    with pytest.raises(ValueError, match=r"seed2/soft differs from .*seed1/soft in hidden_size, learning_rate"):
        run_main(compare, *words, "--seeds", 2, "--models", "soft")


def test_models_without_settings_are_refused(tmp_path):
    write_json(tmp_path / "settings.json", {"reinforce": {}})
    with pytest.raises(ValueError, match=r"settings.json has no settings for soft, mean: tune them too, leave them"):
        read_tuned(tmp_path / "settings.json", ["reinforce", "soft", "mean"])


def test_a_missing_file_of_settings_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tuned settings at .*nothing.json: videoglimpse tune writes them"):
        read_tuned(tmp_path / "nothing.json", [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([1], r"settings.json must hold settings by the name of a model, got \[1\]"),
        ({"nobody": {}}, "must hold settings by the name of a model, got {'nobody': {}}"),
        ({"soft": 3}, "must hold settings by the name of a model, got {'soft': 3}"),
        ({"soft": {"glimpses": 3}}, "settings.json: glimpses of 'soft' must be the same for all models"),
        ({"soft": {"depth": 3}}, "depth of 'soft' must be the same .* may be dropout, embedding_size, encoder,"),
        ({"soft": {"learning_rate": "fast"}}, "learning_rate must be a number, got 'fast'"),
        ({"soft": {"skip": 1}}, "skip must be True or False, got 1"),
        ({"soft": {"dropout": 1.5}}, r"dropout must lie in \[0, 1\), got 1.5"),
    ],
)
def test_settings_that_no_model_can_have_are_refused(tmp_path, settings, message):
    write_json(tmp_path / "settings.json", settings)
    line = compare.parse_arguments(["--models", "soft", "--tuned", str(tmp_path / "settings.json")])
    with pytest.raises(ValueError, match=message):
        compare.jobs_of(line)


def test_every_setting_of_a_model_is_a_setting():
    for name in OF_A_MODEL:
        Config().setting(name)
