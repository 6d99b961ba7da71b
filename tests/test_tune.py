"""Tuning: the same effort for every model, on validation alone, and gone on with where it stopped."""

import dataclasses
import shutil

import numpy as np
import pytest
from agent_toys import Watched, marked_splits, tiny_config, write_marked_store
from glimpse_agents import tune as tuning
from glimpse_agents.compare import Arguments as CompareArguments
from glimpse_agents.compare import main as compare
from glimpse_agents.learning.config import Config, parse_arguments, parse_as
from glimpse_agents.playing.envs import make_envs, make_policy, open_splits
from glimpse_agents.playing.evaluation import evaluate
from glimpse_agents.playing.rollout import Manner
from glimpse_agents.reinforce import Arm, train
from glimpse_agents.runs.folder import Checkpoints, read_json, write_json
from glimpse_agents.runs.results import evaluate_run
from glimpse_agents.tables.comparison import page
from glimpse_agents.tables.records import read_records
from glimpse_agents.tune import Arguments, Bench, main, space_of, tune, values_of


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_marked_store(tmp_path_factory.mktemp("store") / "marked"))


def arguments(store, out, **changes):
    own = {field.name: getattr(tiny_config(), field.name) for field in dataclasses.fields(Config)}
    return Arguments(**(own | {"source": store, "out": out, "models": ("random", "soft"), "trials": 3} | changes))


@pytest.fixture(scope="module")
def tuned(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuning")
    main(arguments(store, out))
    return out


# ---- the search


def bowl(settings, number):
    return -((np.log10(settings["learning_rate"]) + 2.5) ** 2) - (settings["policy.dropout"] - 0.4) ** 2


SPACE = {name: tuning.ALL[name] for name in ("learning_rate", "policy.dropout")}
BASE = {"learning_rate": 3e-4, "policy.dropout": 0.8}


def test_the_best_trial_is_returned_and_the_base_is_the_first():
    seen = []

    def judge(settings, number):
        assert number == len(seen)
        seen.append(settings)
        return bowl(settings, number)

    best, value = tune(judge, SPACE, BASE, trials=12, seed=1)
    assert seen[0] == BASE
    assert value == max(bowl(settings, 0) for settings in seen) == bowl(best, 0) > bowl(BASE, 0)


def test_the_base_is_kept_where_nothing_is_better():
    assert tune(lambda _, number: -number, SPACE, BASE, trials=4, seed=1) == (BASE, 0)


def test_draws_depend_on_the_seed_and_on_what_was_judged():
    def drawn(judge, seed):
        seen = []
        tune(
            lambda settings, number: (seen.append(settings), judge(settings, number))[1],
            SPACE,
            BASE,
            trials=9,
            seed=seed,
        )
        return seen

    assert drawn(bowl, 1) == drawn(bowl, 1)
    assert drawn(bowl, 2)[1] != drawn(bowl, 1)[1]
    worse = drawn(lambda settings, number: -bowl(settings, number), 1)
    assert worse[:4] == drawn(bowl, 1)[:4]  # before anything can be learned from
    assert worse[6:] != drawn(bowl, 1)[6:]


def test_models_are_tuned_in_what_they_depend_on():
    assert set(space_of("random")) == set(space_of("mean")) == set(tuning.ALL)
    assert set(space_of("soft")) == {*tuning.ALL, *tuning.SCORING}
    assert set(space_of("gumbel")) == {*space_of("soft"), "random_share"}
    assert set(space_of("learned")) == {*space_of("gumbel"), "entropy_bonus"}
    for looking in ("learned", "soft", "random"):
        Config(arm_settings={looking: values_of(Config(), space_of(looking))})  # an arm may have them for itself


# ---- trials


def test_every_model_gets_as_many_trials_and_none_is_tested(tuned):
    for looking in ("learned", "random", "soft"):
        folders = sorted((tuned / looking).iterdir())
        assert [folder.name for folder in folders] == ["trial0", "trial1", "trial2"]
        for folder in folders:
            assert set(read_json(folder / "validation.json")) == {"log_score", "accuracy", "train_seconds"}
            assert not (folder / "evaluation.json").exists()
            told = read_json(folder / "config.json")
            assert told["looking"] == looking
            assert (told["config"]["updates"], told["config"]["clips"]) == (6, 3)
    base = read_json(tuned / "soft" / "trial0" / "config.json")["config"]
    assert base["learning_rate"] == tiny_config().learning_rate


def test_the_best_by_log_score_is_chosen(tuned):
    for looking, settings in read_json(tuned / "settings.json").items():
        scores = [read_json(tuned / looking / f"trial{k}" / "validation.json")["log_score"] for k in range(3)]
        config = Config.from_json(
            read_json(tuned / looking / f"trial{int(np.argmax(scores))}" / "config.json")["config"]
        )
        assert values_of(config, settings) == settings
        assert set(settings) == set(space_of(looking))


def test_what_is_finished_is_remembered_and_trials_can_be_added(store, tuned, tmp_path):
    out = shutil.copytree(tuned, tmp_path / "out")
    kept = (out / "soft" / "trial1" / "best.safetensors").stat().st_mtime_ns
    main(arguments(store, out, trials=4, models=("soft",)))
    assert (out / "soft" / "trial1" / "best.safetensors").stat().st_mtime_ns == kept
    assert (out / "soft" / "trial3" / "validation.json").exists()
    assert not (out / "random" / "trial3").exists()
    # Who has had fewer trials is not compared with those who have had more.
    assert set(read_json(out / "settings.json")) == {"learned", "soft"}
    main(arguments(store, out, trials=4))
    assert set(read_json(out / "settings.json")) == {"learned", "random", "soft"}
    with pytest.raises(ValueError, match=r"learned has 4 trials already: ask for --trials 4 or more"):
        main(arguments(store, out, trials=3))


def test_a_trial_is_judged_by_the_log_score_of_the_validation_split(tmp_path):
    splits = marked_splits(9, kind=Watched)
    sources = splits | {"test": dataclasses.replace(splits["test"], limit=0, count=[])}  # reading it fails
    config = tiny_config(controls=(), abstain=False)
    bench = Bench(config, "soft", tmp_path, sources)
    judged = bench.judge({"learning_rate": 5e-3}, 0)
    policy = make_policy(config, splits["train"], "soft")
    policy.load_state_dict(Checkpoints(tmp_path / "trial0").load_best())
    envs = make_envs(config, splits["validation"], 4, train=False, looking="soft")
    again = evaluate(envs, policy.eval(), Manner(looking="soft", greedy=True), seed=0)
    assert judged == pytest.approx(again.log_score)
    assert judged != pytest.approx(again.accuracy)


def test_a_trial_that_was_stopped_goes_on(store, tuned, tmp_path, monkeypatch):
    steps, train_once = [], Arm._train_once

    def counted(self):
        steps.append(self.update)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return train_once(self)

    monkeypatch.setattr(Arm, "_train_once", counted)
    asked = arguments(store, tmp_path, trials=1, models=("random",))
    with pytest.raises(KeyboardInterrupt):
        main(asked)
    main(asked)
    assert steps[:7] == [0, 1, 2, 3, 4, 4, 5]
    unbroken = (tuned / "learned" / "trial0" / "best.safetensors").read_bytes()
    assert (tmp_path / "learned" / "trial0" / "best.safetensors").read_bytes() == unbroken


def test_numbers_that_overflow_are_the_worst(store, tmp_path, monkeypatch):
    def overflow(self):
        raise FloatingPointError("the loss is not finite")

    monkeypatch.setattr(Arm, "train", overflow)
    main(arguments(store, tmp_path, trials=1, models=()))
    measured = read_json(tmp_path / "learned" / "trial0" / "validation.json")
    assert measured == {"log_score": pytest.approx(np.log(1e-8)), "failure": "the loss is not finite"}


def test_trials_of_another_base_are_refused(store, tuned):
    with pytest.raises(ValueError, match="trial0 holds a trial that differs in updates: choose another --out"):
        main(arguments(store, tuned, updates=7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "--trials must be at least 1, got 0"),
        ({"controls": ("oracle",)}, "--controls oracle: what is tuned is told by --models"),
        ({"video_score": "mode"}, "--video-score mode: trials are judged by mean scores"),
    ],
)
def test_what_cannot_be_tuned_is_named(store, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments(store, tmp_path, **changes)


# ---- what is done with the settings


def test_comparisons_take_the_settings(store, tuned, tmp_path):
    words = ["--source", store, "--out", str(tmp_path), "--seeds", "1", "--models", "soft"]
    parsed = parse_as(CompareArguments, [*words, "--tuned", str(tuned / "settings.json")])
    ((_, config),) = parsed.runs()
    tuned_to = read_json(tuned / "settings.json")
    assert config.arm_settings == {arm: tuned_to[arm] for arm in ("learned", "soft")}  # those that are asked for
    assert config.for_arm("soft").learning_rate == tuned_to["soft"]["learning_rate"]


def test_an_arm_learns_with_its_own_settings(tmp_path):
    own = {"learning_rate": 0.02, "scorer_learning_rate": 0.03, "weight_decay": 0.5, "entropy_bonus": 0.7}
    config = tiny_config(controls=("random",), abstain=False, arm_settings={"learned": own})
    arms = {looking: Arm(config, looking, tmp_path / looking, marked_splits()) for looking in ("learned", "random")}
    for looking, (rate, scorer_rate, decay, bonus) in {
        "learned": (0.02, 0.03, 0.5, 0.7), "random": (0.01, 0.003, 0.0, 0.003),
    }.items():  # fmt: skip
        arm = arms[looking]
        arm._train_once()
        groups = arm.optimizer.param_groups
        decayed = min(1.0, 0.1 + 0.9 * 3)
        assert [group["lr"] for group in groups] == pytest.approx([rate * decayed, scorer_rate * decayed])
        assert (groups[0]["weight_decay"], arm.config.entropy_bonus) == (decay, bonus)


def test_an_arm_trains_with_its_own_settings_and_the_record_tells(store, tmp_path):
    own = {"learned": {}, "soft": {"learning_rate": 5e-3, "policy.hidden_size": 5}, "mean": {}}
    write_json(tmp_path / "settings.json", own)
    fields = {field.name: getattr(tiny_config(), field.name) for field in dataclasses.fields(Config)}
    given = {"source": store, "out": tmp_path / "out", "seeds": (1,), "models": ("soft", "mean")}
    compare(CompareArguments(**(fields | given), tuned=tmp_path / "settings.json"))
    records = read_records(tmp_path / "out")
    config = Config.from_json(records[0].run["config"])
    assert config.arm_settings == own
    told = page(records)
    assert "Tuned for itself: soft attention, content and state: learning_rate 0.005, policy.hidden_size 5." in told
    assert "Not tuned for itself: REINFORCE, m glimpses; mean of all cells." in told
    sizes = {
        arm: make_policy(config, open_splits(config)["train"], arm).config.hidden_size
        for arm in ("soft", "mean", "learned")
    }
    assert sizes == {"soft": 5, "mean": 8, "learned": 8}


def test_models_can_be_tuned_and_added_later_and_none_changes(store, tmp_path):
    fields = {field.name: getattr(tiny_config(), field.name) for field in dataclasses.fields(Config)}
    asked = fields | {"source": store, "out": tmp_path / "out", "seeds": (1,), "tuned": tmp_path / "settings.json"}
    own = {"learned": {}, "soft": {"learning_rate": 5e-3, "policy.hidden_size": 5}, "mean": {"learning_rate": 7e-3}}
    write_json(tmp_path / "settings.json", {name: own[name] for name in ("learned", "soft")})
    compare(CompareArguments(**asked, models=("soft",)))
    write_json(tmp_path / "settings.json", own | {"soft": {"policy.hidden_size": 6}})
    compare(CompareArguments(**asked, models=("mean",)))
    told = read_json(tmp_path / "out" / "m2" / "seed1" / "config.json")["config"]
    assert (told["arm_settings"], told["controls"]) == (own, ["soft", "mean"])  # who is trained keeps its settings
    assert {entry.looking for entry in read_records(tmp_path / "out")} == {"learned", "soft", "mean"}
    assert set(evaluate_run(tmp_path / "out" / "m2" / "seed1")["accuracy"]) == {"learned", "soft", "mean"}
    with pytest.raises(ValueError, match="holds a run of another configuration"):
        compare(CompareArguments(**asked, models=("soft",)))
    with pytest.raises(ValueError, match=r"seed2/config.json differs from .*seed1.* in the settings of 'soft'"):
        compare(CompareArguments(**(asked | {"seeds": (2,)}), models=("soft",)))


def test_settings_of_arms_that_were_not_trained_do_not_stay(store, tmp_path):
    config = tiny_config(source=store, controls=(), arm_settings={"soft": {"learning_rate": 5e-3}})
    train(config, tmp_path)
    train(dataclasses.replace(config, controls=("soft",), arm_settings={}), tmp_path)
    assert read_json(tmp_path / "config.json")["config"]["arm_settings"] == {}


def test_every_budget_has_the_settings_of_its_own_arms(store, tmp_path):
    write_json(tmp_path / "settings.json", {"learned": {}, "soft": {"learning_rate": 0.1}, "random": {}})
    words = ["--source", store, "--budgets", "2", "1", "--seeds", "1", "--models", "soft", "random"]
    asked = parse_as(CompareArguments, [*words, "--tuned", str(tmp_path / "settings.json")]).runs()
    assert [sorted(config.arm_settings) for _, config in asked] == [
        ["learned", "random", "soft"],
        ["learned", "random"],
    ]


def test_models_without_settings_are_named_before_anything_is_trained(store, tmp_path):
    write_json(tmp_path / "settings.json", {"learned": {}})
    words = ["--source", store, "--models", "soft", "mean", "--tuned", str(tmp_path / "settings.json")]
    with pytest.raises(ValueError, match=r"settings.json has no settings for soft, mean: tune these too"):
        parse_as(CompareArguments, words).runs()


def test_a_file_of_settings_that_is_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tuned settings at .*nothing.json: agents.tune writes them"):
        Config().tuned_by(tmp_path / "nothing.json")
    write_json(tmp_path / "list.json", [1])
    with pytest.raises(ValueError, match=r"list.json must hold settings by the name of an arm, got \[1\]"):
        Config().tuned_by(tmp_path / "list.json")


def test_training_takes_the_settings(tmp_path):
    write_json(tmp_path / "settings.json", {"random": {"learning_rate": 0.5}})
    config = parse_arguments(["--tuned", str(tmp_path / "settings.json")]).config
    assert (config.for_arm("random").learning_rate, config.for_arm("learned").learning_rate) == (0.5, 3e-3)
    assert config.for_arm("random").arm_settings == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nobody": {}}, "arm_settings must be of arms among"),
        ({"soft": {"glimpses": 3}}, "arm_settings of 'soft': 'glimpses' is the same for all arms"),
        ({"soft": {"policy.depth": 3}}, "unexpected keyword argument 'depth'"),
        ({"soft": 3}, "arm_settings of 'soft' must be settings by name, got 3"),
        ({"soft": {"learning_rate": "fast"}}, "learning_rate must be a float, such as 0.003, got 'fast'"),
        ({"soft": {"policy.skip": 1}}, "policy.skip must be a bool, such as False, got 1"),
        ({"soft": {"policy.dropout": 1.5}}, r"policy.dropout must lie in \[0, 1\)"),
    ],
)
def test_settings_that_no_arm_can_have_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Config(arm_settings=settings)
