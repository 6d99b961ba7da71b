"""Training: a run from end to end, its repetition, its interruption, and that it learns where to look."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from agent_toys import TINY_NETWORK, Watched, marked_splits, metrics_of, tiny_config, write_marked_store
from clip_toys import UnevenSource
from glimpse_agents.learning.config import Arguments, Config
from glimpse_agents.reinforce import Arm, clips_of_update, default_folder, example_clips, main, seed_of_update, train
from glimpse_agents.runs.folder import Checkpoints, read_json, write_json
from glimpse_agents.runs.results import evaluate_run, table

from glimpse_env import Segment, SlidingWindows, UntrimmedSyntheticSource
from glimpse_env.catalogue import EMBEDDED

MEASURES = (
    "accuracy", "vote_accuracy", "top3", "mean_average_precision", "hit_at_3", "focus", "focus_per_look",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_marked_store(tmp_path_factory.mktemp("store") / "marked"))


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    """The configuration of a run with every control, its folder and its result."""
    config = tiny_config(source=store, controls=("random", "centre", "mean", "all", "oracle"))
    out = tmp_path_factory.mktemp("runs") / "finished"
    return config, out, train(config, out)


# ---- a run from end to end


def test_a_run_leaves_all_its_files(finished):
    config, out, result = finished
    files = {str(path.relative_to(out)) for path in out.rglob("*") if "tfevents" not in path.name}
    arm = {"metrics.jsonl", "best.safetensors", "last.pt", "evaluation.json"}
    controls = {f"controls/{name}" for name in config.controls}
    assert files == arm | {"config.json", "result.json", "glimpses.png", "controls"} | controls | {
        f"{folder}/{name}" for folder in controls for name in arm
    }
    assert len(list(out.rglob("*tfevents*"))) == 6
    assert read_json(out / "result.json") == result


def test_the_result_has_what_the_measures_need(finished):
    config, _, result = finished
    seen = {"learned", "random", "centre", "oracle"}
    for name in ("accuracy", "vote_accuracy", "top3", "mean_average_precision", "hit_at_3"):
        assert set(result[name]) == seen | {"mean", "all"}
    assert set(result["focus"]) == set(result["focus_per_look"]) == seen
    assert all(0 <= value <= 1 for name in MEASURES for value in result[name].values())
    assert result["focus"]["oracle"] == 1.0
    assert result["focus_per_look"]["oracle"] == 0.5  # the actor has one cell, and there are two looks
    assert (result["glimpses_per_frame"], result["test_clips"], result["seed"]) == (2.0, 6, config.seed)
    assert result["train_seconds"] > 0


def test_the_configuration_is_kept_with_its_provenance(finished):
    config, out, _ = finished
    kept = read_json(out / "config.json")
    assert type(config).from_json(kept["config"]) == dataclasses.replace(config, abstain=False)
    assert {"versions", "git_commit", "machine", "threads"} < set(kept)
    assert kept["source"] == {
        "grid_size": 3, "depth": 4, "frames": 4, "class_names": ["classa", "classb", "classc"],
        "frames_per_second": 10.0,
        "extraction": {
            "backbone": "none", "weights_sha256": "1" * 64, "resize_rule": "none", "max_frames": 4, "batch_size": 1,
            "precision": "float32", "crop": None,
        },
    }  # fmt: skip


def test_metrics_are_logged_under_their_kind(finished):
    _, out, _ = finished
    lines = metrics_of(out)
    assert [line["update"] for line in lines] == [4, 6]  # validation does not look at the warm-up of two updates
    assert {"train/total", "train/gradient_norm", "train/accuracy", "train/focus", "eval/accuracy", "eval/focus"} < set(
        lines[0]
    )
    assert [line["update"] for line in metrics_of(out / "controls" / "mean")] == [4, 6]  # as many to choose among


def test_the_same_seed_gives_the_same_numbers(finished, tmp_path):
    config, out, result = finished
    again = train(dataclasses.replace(config, controls=("random",)), tmp_path / "again")
    assert again["accuracy"] == {name: result["accuracy"][name] for name in ("learned", "random")}
    for arm in (".", "controls/random"):
        assert metrics_of(out / arm) == metrics_of(tmp_path / "again" / arm)
        one, two = (Checkpoints(folder / arm).best.read_bytes() for folder in (out, tmp_path / "again"))
        assert one == two


def test_another_seed_gives_others(finished, tmp_path):
    config, out, _ = finished
    train(dataclasses.replace(config, controls=(), seed=2), tmp_path)
    assert metrics_of(out)[0]["train/total"] != metrics_of(tmp_path)[0]["train/total"]


def test_a_finished_run_is_not_trained_again(finished):
    config, out, result = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("best.safetensors")}
    assert train(config, out) == result
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("best.safetensors")}


def test_playing_the_test_split_again_gives_the_same_result(finished):
    _, out, result = finished
    assert evaluate_run(out) == result


def test_a_run_judges_videos_by_the_score_of_its_configuration(finished, tmp_path):
    config, _, result = finished
    voted = train(dataclasses.replace(config, controls=("random",), video_score="mode"), tmp_path)
    assert evaluate_run(tmp_path) == voted
    means = {arm: result["mean_average_precision"][arm] for arm in ("learned", "random")}
    assert voted["mean_average_precision"] != means


def test_arms_tested_before_there_were_some_measures_are_summarised(finished, tmp_path):
    config, out, result = finished
    shutil.copytree(out, tmp_path / "run")
    path = tmp_path / "run" / "controls" / "random" / "evaluation.json"
    measured = read_json(path)
    for name in ("top3", "mean_average_precision", "hit_at_3"):
        del measured["test"][name]
    write_json(path, measured)
    again = train(config, tmp_path / "run")
    assert set(result["top3"]) - set(again["top3"]) == {"random"}
    assert again["accuracy"] == result["accuracy"]
    assert evaluate_run(tmp_path / "run") == result


def test_a_source_of_another_kind_is_refused(finished, store, tmp_path):
    _, out, _ = finished
    other = write_marked_store(tmp_path / "other", class_names=("x", "y", "z"))
    with pytest.raises(ValueError, match=r"other has class_names \['x', 'y', 'z'\], but the run was .* \['classa'"):
        evaluate_run(out, source=str(other))
    assert evaluate_run(out, source=store)["accuracy"] == evaluate_run(out)["accuracy"]


def test_the_table_shows_every_arm(finished):
    _, _, result = finished
    lines = table(result).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["learned", "random", "centre", "mean", "all", "oracle"]
    assert lines[4].split()[3:] == ["-", "-"]  # who sees everything has no focus
    assert lines[1].split()[1] == f"{result['accuracy']['learned']:.3f}"


@pytest.mark.parametrize(
    "changes",
    [
        {"reward": "clip_log_score", "credit": "terminal", "mirror": True, "observation": "cube", "glimpses": 1},
        {"reward": "frame_log_score", "scorer_updates": 2, "random_share": 0.4, "rollouts": 3, "penalty": 0.1},
        {"abstain": True, "frames": 3, "jitter": True, "credit": "terminal"},
        {
            "policy": dataclasses.replace(
                TINY_NETWORK, encoder="sum", slice_weights="softmax", layers=2, dropout=0.5, scorer_dropout=0.3,
                projection_size=2,
            )
        },
    ],
    ids=["clip score", "frame score", "abstain", "paper"],
)  # fmt: skip
def test_every_option_trains(store, tmp_path, changes):
    result = train(tiny_config(source=store, controls=(), **changes), tmp_path)
    assert result["test_clips"] == 6
    assert all(np.isfinite(value) for line in metrics_of(tmp_path) for value in line.values())


def test_the_command_line_trains_goes_on_and_evaluates(store, tmp_path, capsys):
    config = tiny_config(source=store, controls=())
    fields = {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(config)}
    main(Arguments(**fields, out=tmp_path / "run"))
    told = capsys.readouterr().out
    assert told.startswith(f"preset small: {config.policy}\nwriting to {tmp_path / 'run'}\n")
    assert f"wrote {tmp_path / 'run'}/result.json" in told
    for arguments in (Arguments(resume=tmp_path / "run"), Arguments(evaluate=tmp_path / "run")):
        main(arguments)
        assert table(read_json(tmp_path / "run" / "result.json")) in capsys.readouterr().out


def test_a_run_is_played_again_with_drawn_cells(finished, capsys):
    _, out, result = finished
    drawn = evaluate_run(out, sampled=True)
    assert drawn["focus_per_look"]["learned"] != result["focus_per_look"]["learned"]
    assert drawn["focus_per_look"]["random"] == result["focus_per_look"]["random"]  # drawn both times
    main(Arguments(evaluate=out, sampled=True))
    assert capsys.readouterr().out == table(drawn) + "\n"
    with pytest.raises(ValueError, match="--sampled is how a run is played again: add --evaluate RUN"):
        Arguments(sampled=True)


def test_a_new_run_is_named_by_source_and_seed():
    assert str(default_folder(tiny_config(source="stores/mine", seed=3))).startswith("runs/mine-seed3-")


def test_a_run_of_before_a_field_was_added_goes_on(finished, tmp_path):
    config, out, result = finished
    shutil.copytree(out, tmp_path / "old")
    content = read_json(out / "config.json")
    for name in ("window_seconds", "stride_seconds"):
        del content["config"][name]
    write_json(tmp_path / "old" / "config.json", content)
    assert train(config, tmp_path / "old") == result


# ---- windows that slide over videos


class FewVideos(UntrimmedSyntheticSource):
    """A few of the embedded videos of 48 frames: ten to train on, four to validate, five to test."""

    _clips_per_split = (10, 4, 5)


@pytest.fixture(scope="module")
def slid(tmp_path_factory):
    """The configuration of a run on windows of a second, its folder and its result."""
    config = tiny_config(source="few", window_seconds=1.0, stride_seconds=0.75, controls=("random",), epochs=1.0)
    out = tmp_path_factory.mktemp("runs") / "slid"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EMBEDDED, "few", FewVideos)
        yield config, out, train(config, out)


def test_windows_are_trained_on_and_videos_are_counted(slid):
    _, out, result = slid
    # 48 frames, eight a second: windows of 8 at 0, 6, 12, 18, 24, 30, 36 and 40
    assert (result["test_clips"], result["test_windows"]) == (5, 40)
    assert read_json(out / "config.json")["source"]["frames"] == 8
    kept = Config.from_json(read_json(out / "config.json")["config"])
    assert (kept.window_seconds, kept.stride_seconds, kept.abstain) == (1.0, 0.75, True)
    assert kept.updates == 27  # 80 windows, three an update
    for arm in (".", "controls/random"):
        assert len(read_json(out / arm / "evaluation.json")["test"]["correct"]) == 5
        looks = [line["eval/accuracy"] for line in metrics_of(out / arm) if "eval/accuracy" in line]
        assert {4 * accuracy for accuracy in looks} <= {0, 1, 2, 3, 4}  # of four videos
        assert all(np.isfinite(value) for line in metrics_of(out / arm) for value in line.values())
    assert (out / "glimpses.png").exists()


def test_a_run_on_windows_is_played_again_and_gone_on_with(slid):
    config, out, result = slid
    assert evaluate_run(out) == result
    assert train(config, out) == result


def test_examples_are_the_middle_windows_of_videos():
    windows = SlidingWindows(source=FewVideos("test"), window_seconds=1.0, stride_seconds=0.75)
    shown = example_clips(windows, [False, True, True, True, False])
    assert shown == [8 + 4, 16 + 4, 4, 32 + 4]  # the fifth of the eight windows of videos 1 and 2, then of 0 and 4
    assert example_clips(windows.source, [False, True, True, True, False]) == [1, 2, 0, 4]


@pytest.mark.parametrize("reward", ["eq7", "frame_log_score", "clip_log_score"])
@pytest.mark.parametrize("abstain", [False, True])
def test_windows_of_background_alone_train(tmp_path, reward, abstain):
    """All that they teach is to say nothing: without that choice the gradient is the penalty's and the bonus's."""
    rng = np.random.default_rng(1)
    source = UnevenSource(
        features=rng.uniform(0, 1, (4, 8, 3, 3, 4)).astype(np.float32), labels=np.zeros(4, np.int64),
        class_names=("a", "b"), frames_per_second=10.0, lengths=(8,) * 4, truths=((),) * 4,
    )  # fmt: skip
    windows = SlidingWindows(source=source, window_seconds=0.4)
    config = tiny_config(
        abstain=abstain, reward=reward, credit="terminal", rollouts=3, warmup_updates=0, updates=3, entropy_bonus=0.0
    )
    arm = Arm(config, "learned", tmp_path, dict.fromkeys(("train", "validation", "test"), windows))
    before = {name: weight.clone() for name, weight in arm.policy.named_parameters()}
    arm.train()
    changed = [name for name, weight in arm.policy.named_parameters() if not torch.equal(weight, before[name])]
    lines = metrics_of(tmp_path)
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert (lines[-1]["eval/accuracy"], lines[-1]["eval/vote_accuracy"]) == (0.0, 0.0)
    assert ("classes.bias" in changed) == abstain
    if reward != "eq7":
        assert all(line["train/policy"] == 0 for line in lines)
        assert "place" not in changed


# ---- what is refused


def test_a_folder_of_another_configuration_is_refused(finished):
    config, out, _ = finished
    with pytest.raises(ValueError, match=rf"{out} holds a run of another configuration: choose another --out"):
        train(dataclasses.replace(config, seed=5), out)


def test_a_folder_that_is_no_runs_is_refused(tmp_path):
    for arguments in (Arguments(resume=tmp_path), Arguments(evaluate=tmp_path)):
        with pytest.raises(FileNotFoundError, match=f"no config.json in {tmp_path}"):
            main(arguments)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:99", "device 'cuda:99' was asked for, but there are .* CUDA devices here: use --device cpu"),
        ("tpu9", "device 'tpu9' is none that torch knows"),
    ],
)
def test_a_device_that_is_not_there_is_named(store, tmp_path, device, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_config(source=store, device=device), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": "nowhere"}, FileNotFoundError, "no source 'nowhere'"),
        ({"fold": 2}, ValueError, "unknown fold 2"),
        ({"glimpses": 10}, ValueError, "glimpses must be 1 to 9"),
        ({"window_seconds": 0.1}, ValueError, "at least 2 frames.*: set --frames, or a longer --window-seconds"),
        ({"window_seconds": 0.2, "stride_seconds": 0.3}, ValueError, "stride_seconds must be positive and at most"),
        ({"stride_seconds": 0.3}, ValueError, r"stride_seconds \(0.3\) is of windows: set window_seconds too"),
        ({"eta": 1.5}, ValueError, r"eta must lie in \[0, 1\], got 1.5"),
    ],
)
def test_what_cannot_be_played_is_named(store, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train(tiny_config(**({"source": store} | changes)), tmp_path / "run")


@pytest.mark.parametrize(
    ("factor", "name"), [(float("nan"), "loss"), (float("nan"), "gradient"), (1e38, "gradient")],
    ids=["loss", "gradient", "exploding gradient"],
)  # fmt: skip
def test_what_is_not_finite_names_the_clips_and_the_last_good_checkpoint(tmp_path, factor, name):
    config, sources = tiny_config(clips=2), marked_splits()
    arm = Arm(config, "learned", tmp_path, sources)
    good = []

    def spoil(gradient):
        good.append(gradient)
        if len(good) <= 3:
            return gradient
        if name == "loss":
            sources["train"].features[:] = factor  # of the next update
        return gradient if name == "loss" else gradient * factor

    arm.policy.classes.weight.register_hook(spoil)
    update = 4 if name == "loss" else 3
    names = "', '".join(sources["train"].clip_id(clip) for clip in sorted(clips_of_update(12, config, update)))
    message = (
        rf"the {name} of update {update} is not finite, on clips \['{names}'\]: lower the learning rate, or look at "
        rf"these clips; the last good state is in {tmp_path / 'last.pt'}"
    )
    with pytest.raises(FloatingPointError, match=message):
        arm.train()
    state = Checkpoints(tmp_path).load_last()
    assert state["update"] == update
    assert all(weight.isfinite().all() for weight in state["policy"].values())


def test_where_nothing_was_saved_yet_no_checkpoint_is_named(tmp_path):
    arm = Arm(tiny_config(), "learned", tmp_path, marked_splits())
    arm.policy.classes.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"loss of update 0 .* look at these clips; nothing was saved yet$"):
        arm.train()


# ---- data and chance


@pytest.mark.parametrize("changes", [{}, {"abstain": True}, {"credit": "terminal", "penalty": 0.5}])
def test_parts_of_an_update_add_up_to_the_whole(tmp_path, changes):
    gradients = []
    for at_once in (None, 2, 1):  # of three clips: parts of two and one
        config = tiny_config(warmup_updates=0, clips_at_once=at_once, **({"abstain": False} | changes))
        arm = Arm(config, "learned", tmp_path / str(at_once), marked_splits())
        scalars = arm._train_once()
        gradients.append([parameter.grad for parameter in arm.policy.parameters()])
        if at_once is None:
            whole = scalars
        assert scalars == pytest.approx(whole, rel=1e-4)
    for parts in gradients[1:]:
        for part, one in zip(parts, gradients[0], strict=True):
            torch.testing.assert_close(part, one, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
def test_bfloat16_learns_nearly_the_same(tmp_path, encoder):
    norms, gradients = [], []
    for precision in ("float32", "bfloat16"):
        network = dataclasses.replace(TINY_NETWORK, precision=precision, encoder=encoder)
        config = tiny_config(warmup_updates=0, abstain=False, policy=network)
        arm = Arm(config, "random", tmp_path / precision, marked_splits())
        norms.append(arm._train_once()["train/gradient_norm"])
        gradients.append(
            torch.cat([value.grad.flatten() for value in arm.policy.parameters() if value.grad is not None])
        )
        assert all(value.dtype == torch.float32 for value in arm.policy.parameters())
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert 1e-5 < difference < 0.05  # what bfloat16 rounds off, and not nothing
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_every_clip_is_played_once_an_epoch():
    config = tiny_config(clips=4)
    played = np.concatenate([clips_of_update(10, config, update) for update in range(10)])
    epochs = played.reshape(4, 10)
    assert (np.sort(epochs) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    again = [clips_of_update(10, config, update) for update in (7, 2)]  # whatever was asked before
    assert np.array_equal(again, [played[28:32], played[8:12]])


def test_seeds_differ_between_updates_and_runs():
    seeds = {seed_of_update(tiny_config(seed=seed), update) for seed in (1, 2) for update in range(50)}
    assert len(seeds) == 100


def test_training_never_reads_the_test_split(tmp_path):
    sources = marked_splits(kind=Watched)
    arm = Arm(tiny_config(), "learned", tmp_path, sources)
    arm.train()
    assert sources["test"].count == []
    assert sum(sources["validation"].count) > 0
    measured = arm.test()
    assert sum(sources["test"].count) > 0
    assert len(measured.correct) == 12


def test_validation_chooses_the_checkpoint(tmp_path):
    arm = Arm(tiny_config(updates=30, validate_every=3, warmup_updates=0), "learned", tmp_path, marked_splits())
    arm.train()
    looks = [(line["update"], line["eval/accuracy"]) for line in metrics_of(tmp_path) if "eval/accuracy" in line]
    assert [update for update, _ in looks] == list(range(3, 31, 3))
    best = max(accuracy for _, accuracy in looks)
    assert (arm.best_score, arm.best_update) == (best, next(update for update, value in looks if value == best))


@pytest.mark.parametrize("baseline", ["none", "value"])
def test_single_rollouts_train_with_a_baseline_of_their_own(baseline, tmp_path):
    config = tiny_config(baseline=baseline, rollouts=1, warmup_updates=0, class_gradient=True)
    arm = Arm(config.for_source(marked_splits()["train"]), "learned", tmp_path, marked_splits())
    before = {name: weight.clone() for name, weight in arm.policy.state_dict().items()}
    arm.train()
    changed = {name for name, weight in arm.policy.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == set(before) - {"components"}
    assert ("train/value" in metrics_of(tmp_path)[0]) is (baseline == "value")
    assert Checkpoints(tmp_path).load_best().keys() == before.keys()


@pytest.mark.parametrize("looking", ["soft", "gumbel", "unlimited", "random"])
def test_controls_train_beside_a_policy_with_values(looking, tmp_path):
    config = tiny_config(baseline="value", rollouts=1, abstain=False, controls=(looking,))
    Arm(config, looking, tmp_path, marked_splits()).train()
    assert ("train/value" in metrics_of(tmp_path)[0]) is (looking in ("unlimited", "random"))


def test_a_large_error_of_the_values_does_not_shrink_the_step_of_the_rest(tmp_path):
    steps = []
    for bias in (0.0, 1e4):
        config = tiny_config(baseline="value", abstain=False, max_grad_norm=0.1)
        arm = Arm(config, "learned", tmp_path / str(bias), marked_splits())
        torch.nn.init.constant_(arm.policy.value.bias, bias)
        scalars = arm._train_once()
        steps.append((scalars["train/gradient_norm"], arm.policy.lstm[0].weight_ih_l0.grad))
    assert steps[0][0] == steps[1][0] > 0.1
    assert torch.equal(steps[0][1], steps[1][1])


# ---- background


def shown_in_the_middle(clips, seed):
    """Return clips of six frames on one cell, which shows the class in frames 3 to 6 and "nothing" in the first two."""
    rng = np.random.default_rng(seed)
    labels = np.arange(clips) % 3
    features = rng.uniform(0, 0.1, (clips, 6, 1, 1, 4)).astype(np.float32)
    features[:, :2, ..., 3] += 1
    features[np.arange(clips), 2:, 0, 0, labels] += 1
    return UnevenSource(
        features=features, labels=np.full(clips, -1), class_names=("a", "b", "c"), frames_per_second=10.0,
        lengths=(6,) * clips, truths=tuple((Segment(0.15, 0.6, int(label)),) for label in labels),
    )  # fmt: skip


def test_classes_and_background_are_told_apart(tmp_path):
    """Nothing but drawn classes spoke against "no prediction" once, and it was all that the network ever said."""
    sources = {split: shown_in_the_middle(12, seed) for seed, split in enumerate(("train", "validation", "test"))}
    config = tiny_config(
        glimpses=1, updates=80, warmup_updates=40, clips=12, abstain=True, validate_every=20, controls=()
    )
    arm = Arm(config, "learned", tmp_path, sources)
    arm.train()
    measured = arm.test()
    assert (measured.true_positives, measured.false_positives) == (4.0, 0.0)
    assert measured.accuracy == measured.mean_average_precision == 1.0
