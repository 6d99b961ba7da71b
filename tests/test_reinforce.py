"""Training: a command from end to end, repetition with the same seed, windows, refusals, and the steps of an update."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from agent_toys import Watched, marked_splits, metrics_of, tiny_config, write_marked_store
from clip_toys import UnevenSource
from finished_runs import write_config
from glimpse_agents.learning.config import PATHS, Config
from glimpse_agents.learning.models import MODELS
from glimpse_agents.learning.optimise import clips_of_update, parts_to_clip, seed_of_update
from glimpse_agents.reinforce import collect, fit, main, parse_arguments, train, update
from glimpse_agents.runs.command import run_command
from glimpse_agents.runs.files import read_json
from glimpse_agents.runs.folder import RunFolder
from glimpse_agents.runs.jobs import Job, describe, evaluate_again
from glimpse_agents.runs.progress import Progress
from glimpse_agents.runs.signals import Interruption
from glimpse_agents.runs.trainer import Trainer

from glimpse_env import Segment, SlidingWindows, UntrimmedSyntheticSource
from glimpse_env.catalogue import EMBEDDED

ROOT = Path(__file__).parent.parent
TINY = {name: tiny_config().setting(name) for name in PATHS if tiny_config().setting(name) != Config().setting(name)}
FLAGS = ["--preset", "small", *(word for name, value in TINY.items() for word in (f"--{name}", str(value)))]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_marked_store(tmp_path_factory.mktemp("store") / "marked"))


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    """The configuration of a run, its folder and its result."""
    config = tiny_config(source=store)
    out = tmp_path_factory.mktemp("runs") / "finished"
    return config, out, train(config, out)


def run(monkeypatch, *arguments):
    """Run the command in this process, and return its exit status or its message."""
    monkeypatch.setattr(sys, "argv", ["agents/reinforce.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run_command(main, ranks=True)
    return ended.value.code


def trainer_of(sources=None, **settings):
    """Return a trainer in memory."""
    sources = sources or marked_splits()
    return Trainer(tiny_config(**settings).for_source(sources["train"]), sources)


def fit_here(trainer, path):
    """Run all updates of a trainer, and return its folder."""
    folder = RunFolder(path)
    path.mkdir(exist_ok=True)
    with Progress(trainer.config.training.updates, shows=False) as progress:
        fit(trainer, folder, Interruption(), progress)
    return folder


# ---- the command from end to end


def test_the_command_trains_every_model_and_prints_the_next_command(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("glimpse_agents.runs.progress.SECONDS_BETWEEN_LINES", 0.0)
    out, models = tmp_path / "run", ["reinforce", "centre", "oracle", "mean"]
    assert run(monkeypatch, *FLAGS, "--source", store, "--out", out, "--models", *models) is None
    first, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"Training reinforce, centre, oracle, mean on {store}: 3 classes \(chance 0\.333\), 12 / 6 / 6 clips to train "
        r"/ validate / test, 2 of 9 cells in each of 4 frames; about \d+ s",
        first,
    )
    progress, table = lines[:24], lines[24:]
    for line, model in zip(progress, np.repeat(models, 6), strict=True):
        assert re.match(rf"{model} \d/6  [\d.]+ updates/s, \d+ s left", line)
    assert [line.split()[0] for line in table[1:5]] == models
    assert table[0].split() == ["accuracy", "95", "%", "interval", "vote", "focus", "per", "look"]
    for line, model in zip(table[1:5], models, strict=True):
        measured = RunFolder(out / model).finished().measured
        assert line.split()[1] == f"{measured.accuracy:.3f}"
        assert re.search(r" \d\.\d{3} to \d\.\d{3} ", line)
    assert table[4].split()[-2:] == ["-", "-"]  # the mean has no focus
    assert table[5].startswith("chance 0.333; 6 test videos of 6 films; the interval covers films, not seeds")
    assert table[6].startswith("note on some intervals: few or unequal films (they count as 6.0 equal ones)")
    assert table[-1] == f"Wrote {out}. Next: videoglimpse report {out} --out {out}/report.html"
    files = {path.name for path in (out / "reinforce").iterdir() if "tfevents" not in path.name}
    names = {"config.json", "metrics.jsonl", "best.safetensors", "last.pt", "evaluation.json", "glimpses.png", "lock"}
    assert files == names
    assert len(list(out.rglob("*tfevents*"))) == 4

    assert run(monkeypatch, "--evaluate", out) is None  # plays the same clips, and prints the same table
    assert capsys.readouterr().out.splitlines() == table[:7]
    assert run(monkeypatch, "--resume", out) is None
    assert capsys.readouterr().out.splitlines()[1:] == table
    assert run(monkeypatch, "--evaluate", out / "oracle", "--sampled") is None
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:3]] == ["oracle", "chance"]


def test_models_get_the_settings_that_were_tuned_for_them(store, tmp_path, monkeypatch):
    (tmp_path / "settings.json").write_text('{"soft": {"learning_rate": 0.5, "hidden_size": 6}, "random": {}}')
    arguments = [*FLAGS, "--source", store, "--models", "soft", "random", "--out", tmp_path / "run"]
    assert run(monkeypatch, *arguments, "--tuned", tmp_path / "settings.json") is None
    configs = [RunFolder(tmp_path / "run" / name).record().config for name in ("soft", "random")]
    assert [config.training.learning_rate for config in configs] == [0.5, 0.01]
    assert [config.policy.hidden_size for config in configs] == [6, 8]


def test_a_run_that_sets_the_defaults_leaves_abstention_to_another_source(tmp_path):
    flags = ["--config", str(write_config(tmp_path / "own", tiny_config(source="synthetic", abstain=False)))]
    assert parse_arguments(flags).config.task.abstain is False
    assert parse_arguments([*flags, "--source=synthetic-untrimmed"]).config.task.abstain is None
    chosen = ["--config", str(write_config(tmp_path / "chosen", tiny_config(source="synthetic", abstain=True)))]
    assert parse_arguments([*chosen, "--source", "synthetic-easy"]).config.task.abstain is True
    packed = parse_arguments(["--config", "synthetic", "--updates", "7"]).config
    assert (packed.task.source, packed.training.updates) == ("synthetic", 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "nowhere"], "error: no source 'nowhere'"),
        (["--glimpses", "50"], "error: glimpses must be 1 to 49"),
        (["--device", "tpu9"], "error: unknown device 'tpu9': use --device cpu"),
        (["--tuned", "nowhere"], "error: no tuned settings at nowhere: videoglimpse tune writes them"),
        (["--resume", "nowhere"], "error: no run in nowhere (no config.json)"),
        (["--evaluate", "nowhere"], "error: no run in nowhere (no config.json)"),
        (["--config", "nowhere"], "error: no run in nowhere (no config.json)"),
    ],
)
def test_a_command_that_cannot_begin_says_why_and_leaves_no_folder(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments).startswith(message)
    assert not list(tmp_path.rglob("*seed*"))


@pytest.mark.slow
@pytest.mark.ci
def test_the_script_runs_as_a_module(tmp_path, store):
    command = [sys.executable, "-m", "agents.reinforce", *FLAGS, "--source", store, "--models", "centre"]
    done = subprocess.run([*command, "--out", tmp_path / "run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Training centre on {store}: ")
    assert RunFolder(tmp_path / "run" / "centre").finished().test is not None


@pytest.mark.slow
@pytest.mark.ci
def test_the_script_runs_by_its_path_and_its_bar_fits_80_columns(tmp_path, store):
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x18\x00\x50\x00" + bytes(4))  # 24 lines of 80 columns
    command = [sys.executable, ROOT / "agents" / "reinforce.py", *FLAGS, "--source", store, "--updates", "40"]
    with (tmp_path / "printed.txt").open("w") as printed:
        process = subprocess.Popen([*command, "--out", tmp_path / "run"], cwd=tmp_path, stdout=printed, stderr=theirs)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            drawn += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait() == 0, drawn
    assert (tmp_path / "printed.txt").read_text().startswith(f"Training reinforce, random on {store}: ")
    assert RunFolder(tmp_path / "run" / "random").finished().test is not None
    lines = [re.sub(r"\x1b\[\w", "", line) for line in re.split(r"[\r\n]+", drawn.decode())]
    assert max(map(len, lines)) <= 80
    assert any(
        re.match(r"random \|.*\| 80/80, 00:00 left, .*up/s, train \d\.\d\d valid \d\.\d\d", line) for line in lines
    )


# ---- one run


def test_a_run_has_the_measures_of_both_splits(finished):
    _, out, result = finished
    assert RunFolder(out).result() == result
    assert (len(result.validation.correct), len(result.test.correct)) == (6, 6)
    for name in ("accuracy", "vote_accuracy", "top3", "mean_average_precision", "hit_at_3", "focus", "focus_per_look"):
        assert 0 <= getattr(result.test, name) <= 1, name
    assert result.test.glimpses_per_frame == 2
    assert result.train_seconds > 0
    assert result.best_update in (4, 6)


def test_the_first_line_says_that_short_clips_repeat_their_last_frame():
    for frames, text in ((4, "4 frames"), (30, "30 frames (the last of 4 repeated)")):
        line = describe([tiny_config(frames=frames)], "marked", marked_splits(), None)
        assert line.endswith(f"2 of 9 cells in each of {text}")


@pytest.mark.parametrize(("model", "focus"), [("oracle", 1.0), ("mean", None), ("all", None)])
def test_the_focus_of_a_rule_is_known(store, tmp_path, model, focus):
    measured = train(tiny_config(source=store, model=model), tmp_path).measured
    assert measured.focus == focus
    assert measured.focus_per_look == (None if focus is None else 0.5)  # two looks, and one cell of the actor


def test_the_record_of_a_run_keeps_its_source(finished):
    config, out, _ = finished
    record = RunFolder(out).record()
    assert record.config == config.with_settings({"abstain": False})
    source = record.source
    assert (source.grid_size, source.depth, source.frames, source.frames_per_second) == (3, 4, 4, 10.0)
    assert source.class_names == ("classa", "classb", "classc")
    assert len(source.identity) == 64
    assert source.extraction["weights_sha256"] == "1" * 64


@pytest.mark.parametrize("model", ["reinforce", "mean"])
def test_validation_begins_after_the_warmup_whether_or_not_a_model_has_one(store, tmp_path, model):
    train(tiny_config(source=store, model=model), tmp_path)
    lines = metrics_of(tmp_path)
    assert [line["update"] for line in lines] == [4, 6]
    names = {"train/total", "train/gradient_norm", "train/accuracy", "validation/accuracy"}
    assert names < set(lines[0])
    assert ({"train/focus", "validation/focus"} < set(lines[0])) == (model == "reinforce")


def test_the_same_seed_gives_the_same_numbers_and_another_seed_does_not(finished, tmp_path):
    config, out, result = finished
    again = train(config, tmp_path / "again")
    assert again.test == result.test
    assert metrics_of(out) == metrics_of(tmp_path / "again")
    one, two = ((folder / "best.safetensors").read_bytes() for folder in (out, tmp_path / "again"))
    assert one == two
    train(config.with_settings({"seed": 2}), tmp_path / "other")
    assert metrics_of(out)[0]["train/total"] != metrics_of(tmp_path / "other")[0]["train/total"]


def test_a_finished_run_is_not_trained_again(finished):
    config, out, result = finished
    before = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.name != "lock"}
    assert train(config, out) == result
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_the_test_split_can_be_played_again(finished):
    config, out, result = finished
    assert evaluate_again([Job(config, out)], sampled=False) == [("reinforce", result.measured)]
    [(_, sampled)] = evaluate_again([Job(config, out)], sampled=True)
    assert sampled.focus_per_look != result.measured.focus_per_look


def test_videos_are_judged_by_the_score_of_the_configuration(finished, tmp_path):
    config, _, result = finished
    voted = train(config.with_settings({"video_score": "mode"}), tmp_path)
    assert voted.measured.mean_average_precision != result.measured.mean_average_precision


def test_a_source_of_another_kind_is_refused(finished, store, tmp_path):
    config, out, _ = finished
    other = write_marked_store(tmp_path / "other", class_names=("x", "y", "z"))
    with pytest.raises(ValueError, match=r"other has class_names \('x', 'y', 'z'\), but the run was trained with"):
        evaluate_again([Job(config.with_settings({"source": str(other)}), out)], sampled=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"reward": "clip_log_score", "credit": "terminal", "mirror": True, "observation": "cube", "glimpses": 1},
        {"reward": "frame_log_score", "random_share": 0.4, "rollouts": 3, "penalty": 0.1},
        {"abstain": True, "frames": 3, "jitter": True, "credit": "terminal"},
        {"encoder": "sum", "slice_weights": "softmax", "layers": 2, "dropout": 0.5, "scorer_dropout": 0.3,
         "projection_size": 2},
        *({"model": model} for model in MODELS),
    ],
    ids=lambda settings: settings.get("model", " ".join(settings)),
)  # fmt: skip
def test_every_option_and_every_model_trains(store, tmp_path, settings):
    result = train(tiny_config(source=store, **settings), tmp_path)
    assert len(result.measured.correct) == 6
    assert all(np.isfinite(value) for line in metrics_of(tmp_path) for value in line.values())


# ---- windows that slide over videos


class FewVideos(UntrimmedSyntheticSource):
    """A few of the embedded videos of 48 frames: ten to train on, four to validate, five to test."""

    _clips_per_split = (10, 4, 5)


def test_windows_are_trained_on_and_videos_are_counted(tmp_path, monkeypatch):
    monkeypatch.setitem(EMBEDDED, "few", FewVideos)
    config = tiny_config(source="few", window_seconds=1.0, stride_seconds=0.75, epochs=1.0)
    result = train(config, tmp_path)
    assert len(result.test.correct) == 5
    record = RunFolder(tmp_path).record()
    assert record.source.frames == 8  # 48 frames, eight a second
    assert (record.config.task.window_seconds, record.config.task.abstain) == (1.0, True)
    assert record.config.training.updates == 27  # eight windows of each of ten videos, three in an update
    accuracies = [line["validation/accuracy"] for line in metrics_of(tmp_path) if "validation/accuracy" in line]
    assert {4 * accuracy for accuracy in accuracies} <= {0, 1, 2, 3, 4}  # of four videos
    assert train(config, tmp_path) == result
    assert evaluate_again([Job(record.config, tmp_path)], sampled=False) == [("reinforce", result.measured)]


@pytest.mark.parametrize("reward", ["eq7", "frame_log_score", "clip_log_score"])
@pytest.mark.parametrize("abstain", [False, True])
def test_windows_without_any_action_only_teach_to_abstain(tmp_path, reward, abstain):
    """Without that choice the gradient has only the terms of the penalty and the entropy bonus."""
    rng = np.random.default_rng(1)
    source = UnevenSource(
        features=rng.uniform(0, 1, (4, 8, 3, 3, 4)).astype(np.float32), labels=np.zeros(4, np.int64),
        class_names=("a", "b"), frames_per_second=10.0, lengths=(8,) * 4, truths=((),) * 4,
    )  # fmt: skip
    windows = SlidingWindows(source=source, window_seconds=0.4)
    settings = {"credit": "terminal", "rollouts": 3, "warmup_share": 0.0, "updates": 3, "entropy_bonus": 0.0}
    sources = dict.fromkeys(("train", "validation", "test"), windows)
    trainer = trainer_of(sources, abstain=abstain, reward=reward, **settings)
    before = {name: weight.clone() for name, weight in trainer.policy.named_parameters()}
    fit_here(trainer, tmp_path)
    changed = [name for name, weight in trainer.policy.named_parameters() if not torch.equal(weight, before[name])]
    lines = metrics_of(tmp_path)
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert (lines[-1]["validation/accuracy"], lines[-1]["validation/vote_accuracy"]) == (0.0, 0.0)
    assert ("class_head.classes.bias" in changed) == abstain
    if reward != "eq7":
        assert all(line["train/policy"] == 0 for line in lines)
        assert "location_head.place" not in changed


# ---- refusals


def test_a_folder_with_another_configuration_is_refused(finished):
    config, out, _ = finished
    with pytest.raises(ValueError, match=f"{out} holds a run with other settings of seed: choose another --out"):
        train(config.with_settings({"seed": 5}), out)
    with pytest.raises(ValueError, match=f"{out} holds a run with other settings of updates: choose another --out"):
        train(config.with_settings({"updates": 8}), out)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"source": "nowhere"}, FileNotFoundError, "no source '.*nowhere'"),
        ({"fold": 2}, ValueError, "unknown fold 2"),
        ({"glimpses": 10}, ValueError, "glimpses must be 1 to 9"),
        ({"window_seconds": 0.1}, ValueError, "at least 2 frames"),
        ({"window_seconds": 0.2, "stride_seconds": 0.3}, ValueError, "stride_seconds must be positive and at most"),
        ({"stride_seconds": 0.3}, ValueError, "stride_seconds"),
        (
            {"window_seconds": 60.0},
            ValueError,
            r"a window of \d+ frames is longer than the longest video, of \d+:",
        ),
        ({"device": "cuda:99"}, ValueError, "device 'cuda:99' does not exist: this machine has .*; use --device cpu"),
        ({"device": "tpu9"}, ValueError, "unknown device 'tpu9': use --device cpu, cuda or cuda:1"),
    ],
)
def test_a_configuration_that_cannot_be_played_is_refused_before_a_folder_is_made(
    store, tmp_path, settings, error, message
):
    with pytest.raises(error, match=message):
        train(tiny_config(**({"source": store} | settings)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_segments_of_untrimmed_clips_need_no_prediction():
    sources = dict.fromkeys(("train", "validation", "test"), UntrimmedSyntheticSource())
    message = r"on untrimmed clips needs abstain=True, got False: .* or set --matching frame"
    with pytest.raises(ValueError, match=message):
        train(tiny_config(matching="segment", abstain=False), sources=sources)


@pytest.mark.parametrize(
    ("factor", "name"), [(float("nan"), "loss"), (float("nan"), "gradient"), (1e38, "gradient")],
    ids=["loss", "gradient", "exploding gradient"],
)  # fmt: skip
def test_a_number_that_is_not_finite_names_the_clips_and_keeps_the_last_state(tmp_path, factor, name):
    sources = marked_splits()
    trainer = trainer_of(sources, clips=2)
    good = []

    def spoil(gradient):
        good.append(gradient)
        if len(good) <= 3:
            return gradient
        if name == "loss":
            sources["train"].features[:] = factor  # of the next update
        return gradient if name == "loss" else gradient * factor

    trainer.policy.class_head.classes.weight.register_hook(spoil)
    number = 4 if name == "loss" else 3
    names = ", ".join(sources["train"].clip_id(clip) for clip in sorted(clips_of_update(12, trainer.config, number)))
    message = (
        rf"the {name} of update {number} is not finite, on the clips {names}: lower --learning-rate, or look at these "
        r"clips; the last saved state is kept"
    )
    with pytest.raises(FloatingPointError, match=message):
        fit_here(trainer, tmp_path)
    state = RunFolder(tmp_path).load_last()
    assert state["num_updates"] == number
    assert all(weight.isfinite().all() for weight in state["policy"].values())


# ---- an update


@pytest.mark.parametrize("settings", [{}, {"abstain": True}, {"credit": "terminal", "penalty": 0.5}])
def test_parts_of_an_update_add_up_to_the_whole(settings):
    gradients = []
    for at_once in (None, 2, 1):  # of three clips: parts of two and one
        trainer = trainer_of(warmup_share=0.0, clips_at_once=at_once, **({"abstain": False} | settings))
        scalars = update(trainer, *collect(trainer))
        gradients.append([parameter.grad for parameter in trainer.policy.parameters()])
        if at_once is None:
            whole = scalars
        assert scalars == pytest.approx(whole, rel=1e-4)
    for parts in gradients[1:]:
        for part, one in zip(parts, gradients[0], strict=True):
            torch.testing.assert_close(part, one, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("encoder", ["sum", "what_and_where"])
def test_bfloat16_learns_nearly_the_same(encoder):
    norms, gradients = [], []
    for precision in ("float32", "bfloat16"):
        trainer = trainer_of(warmup_share=0.0, abstain=False, precision=precision, encoder=encoder, model="random")
        norms.append(update(trainer, *collect(trainer))["train/gradient_norm"])
        gradients.append(
            torch.cat([value.grad.flatten() for value in trainer.policy.parameters() if value.grad is not None])
        )
        assert all(value.dtype == torch.float32 for value in trainer.policy.parameters())
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert 1e-5 < difference < 0.05
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_every_clip_is_played_once_in_an_epoch():
    config = tiny_config(clips=4)
    played = np.concatenate([clips_of_update(10, config, number) for number in range(10)])
    epochs = played.reshape(4, 10)
    assert (np.sort(epochs) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    again = [clips_of_update(10, config, number) for number in (7, 2)]  # in any order of calls
    assert np.array_equal(again, [played[28:32], played[8:12]])


def test_seeds_differ_between_updates_and_runs():
    seeds = {seed_of_update(tiny_config(seed=seed), number) for seed in (1, 2) for number in range(50)}
    assert len(seeds) == 100


def test_training_never_reads_the_test_split(tmp_path):
    sources = marked_splits(kind=Watched)
    trainer = trainer_of(sources)
    run = fit_here(trainer, tmp_path)
    assert sources["test"].count == []
    assert sum(sources["validation"].count) > 0
    result = trainer.conclude(run, sources["test"])
    assert sum(sources["test"].count) > 0
    assert len(result.measured.correct) == 12


def test_validation_chooses_the_checkpoint(tmp_path):
    trainer = trainer_of(updates=30, validate_every=3, warmup_share=0.0, standardise=False)
    fit_here(trainer, tmp_path)
    lines = [line for line in metrics_of(tmp_path) if "validation/accuracy" in line]
    assert [line["update"] for line in lines] == list(range(3, 31, 3))
    best = max(line["validation/accuracy"] for line in lines)
    equal = {line["update"]: line["validation/log_score"] for line in lines if line["validation/accuracy"] == best}
    assert len(equal) > 1
    assert trainer.best_update == max(equal, key=lambda update: equal[update]) != min(equal)
    assert trainer.best_rank == (best, max(equal.values()))


def test_the_log_score_can_choose_the_checkpoint(tmp_path):
    trainer = trainer_of(updates=12, validate_every=3, warmup_share=0.0, chosen_by="log_score")
    fit_here(trainer, tmp_path)
    scores = {line["update"]: line["validation/log_score"] for line in metrics_of(tmp_path) if line["update"] % 3 == 0}
    assert trainer.best_rank[0] == max(scores.values()) < 0
    assert scores[trainer.best_update] == trainer.best_rank[0]


SPREADING = [name for name, model in MODELS.items() if model.learns and name != "soft_top"]  # which never sees m cells


@pytest.mark.parametrize("model", SPREADING)
def test_one_lambda_asks_the_same_of_every_model(model):
    """Equal logits give each of 9 cells a ninth of the attention in each of 4 frames: 9 * (1 - 4 / 9)^2."""
    trainer = trainer_of(model=model, warmup_share=0.0)
    torch.nn.init.zeros_(trainer.policy.location_head.score.weight)
    assert update(trainer, *collect(trainer))["train/penalty"] == pytest.approx(25 / 9)


def test_gamma_is_the_weight_of_the_squared_norm():
    """Adam's own decay equals the gradient of the sum that eq. 8 adds to the loss."""
    ours = trainer_of(weight_decay=0.02, scorer_weight_decay=0.3)
    theirs = trainer_of()
    for step in range(3):
        for trainer in (ours, theirs):
            generator = torch.Generator().manual_seed(step)
            for weight in trainer.policy.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator)
        for name, weight in theirs.policy.named_parameters():
            gamma = 0.3 if name.startswith("location_head.") else 0.02
            (gamma * weight.square().sum()).backward()
        for trainer in (ours, theirs):
            trainer.optimizer.step()
    for ours_after, theirs_after in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        torch.testing.assert_close(ours_after, theirs_after)


@pytest.mark.parametrize("baseline", ["none", "value"])
def test_single_rollouts_train_with_another_baseline(baseline, tmp_path):
    trainer = trainer_of(baseline=baseline, rollouts=1, warmup_share=0.0, class_gradient=True)
    before = {name: weight.clone() for name, weight in trainer.policy.state_dict().items()}
    run = fit_here(trainer, tmp_path)
    changed = {name for name, weight in trainer.policy.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == set(before) - {"location_head.components", "scale.mean", "scale.std"}
    assert ("train/value" in metrics_of(tmp_path)[0]) is (baseline == "value")
    assert run.load_best().keys() == before.keys()


@pytest.mark.parametrize("model", ["soft", "gumbel", "unlimited", "random"])
def test_other_models_train_with_the_baseline_value(model, tmp_path):
    fit_here(trainer_of(baseline="value", rollouts=1, abstain=False, model=model), tmp_path)
    assert ("train/value" in metrics_of(tmp_path)[0]) is (model in ("unlimited", "random"))


def test_a_large_error_of_the_values_does_not_shrink_the_step_of_the_policy():
    steps = []
    for bias in (0.0, 1e4):
        trainer = trainer_of(baseline="value", abstain=False, max_grad_norm=0.1)
        torch.nn.init.constant_(trainer.policy.value_head.linear.bias, bias)
        scalars = update(trainer, *collect(trainer))
        steps.append((scalars["train/gradient_norm"], trainer.policy.memory.lstm[0].weight_ih_l0.grad))
    assert steps[0][0] == steps[1][0] > 0.1
    assert torch.equal(steps[0][1], steps[1][1])


def test_a_large_error_of_the_classes_does_not_shrink_the_step_of_the_location_logits():
    steps = []
    for weight in (1.0, 1e4):
        trainer = trainer_of(abstain=False, warmup_share=0.0, max_grad_norm=0.1)
        torch.nn.init.constant_(trainer.policy.class_head.classes.bias, 0.0)
        trainer.policy.class_head.classes.weight.register_hook(lambda gradient, weight=weight: weight * gradient)
        scalars = update(trainer, *collect(trainer))
        steps.append((scalars["train/gradient_norm"], trainer.policy.location_head.score.weight.grad))
    assert steps[1][0] > 100 * steps[0][0] > 1
    assert torch.equal(steps[0][1], steps[1][1])
    assert steps[0][1].any()


@pytest.mark.parametrize("settings", [{}, {"baseline": "value", "rollouts": 1}, {"jumps": (1, 2), "abstain": False}])
def test_every_gradient_is_clipped_in_one_part(settings):
    policy = trainer_of(**settings).policy
    critic, choices, rest = parts_to_clip(policy)
    every = [id(weight) for part in (critic, choices, rest) for weight in part]
    assert sorted(every) == sorted(id(weight) for weight in policy.parameters())
    names = {id(weight): name.partition(".")[0] for name, weight in policy.named_parameters()}
    assert {names[id(weight)] for weight in critic} == ({"value_head"} if "baseline" in settings else set())
    learned = {"location_head", "jump_head"} if "jumps" in settings else {"location_head"}
    assert {names[id(weight)] for weight in choices} == learned


# ---- segments


def test_segments_are_counted_in_the_last_updates_alone():
    config = tiny_config(
        matching="segment", abstain=True, warmup_share=0.0, updates=4, segment_share=0.5, classification_weight=0.1,
        reward="frame_log_score",
    )  # fmt: skip
    trainer = Trainer(config, marked_splits())
    counted, weights = [], []
    for _ in range(4):
        rollout, masks = collect(trainer)
        with_segments = trainer.envs.engine.rules.matching == "segment"
        assert trainer.stage.matches_segments is with_segments
        # Frame by frame every prediction has a share of the reward; a run of equal predictions has one at its end.
        predictions, answers = rollout.predictions, rollout.predictions < len(trainer.envs.source.class_names)
        within = F.pad(predictions[:, 1:] == predictions[:, :-1], (0, 1)) & answers
        assert within.any()
        assert bool((rollout.shares[within] != 0).any()) is not with_segments
        counted.append(with_segments)
        weights.append(trainer.stage.training.advanced.classification_weight)
        assert (trainer.stage.training.reward == "eq7") is with_segments  # the reward that the environment pays
        update(trainer, rollout, masks)
        trainer.num_updates += 1
    assert counted == [False, False, True, True]
    assert weights == [1.0, 1.0, 0.1, 0.1]
    assert trainer.validation_envs.engine.rules.matching == "segment"


@pytest.mark.parametrize(("updates", "share", "first"), [(10, 0.7, 3), (10, 1.0, 0), (2, 0.1, 1), (1, 0.4, 0)])
def test_at_least_the_last_update_counts_segments(updates, share, first):
    config = Config().with_settings({"matching": "segment", "updates": updates, "segment_share": share})
    assert [config.of_update(update).matches_segments for update in range(updates)] == [
        update >= first for update in range(updates)
    ]


def test_looks_that_cost_are_free_in_the_first_half():
    config = tiny_config(model="unlimited", look_cost=0.25, updates=4, warmup_share=0.0, reward="frame_log_score")
    trainer = Trainer(config, marked_splits())
    charged = []
    for _ in range(4):
        rollout, masks = collect(trainer)
        charged.append((rollout.shares.sum(1) - rollout.rewards).sum() / rollout.looked.sum())
        assert trainer.stage.reward_of_looks == ("frame_log_score" if trainer.num_updates < 2 else "eq7")
        update(trainer, rollout, masks)
        trainer.num_updates += 1
    assert charged == pytest.approx([0, 0, 0.25, 0.25])
    assert trainer.validation_envs.engine.rules.look_cost == 0.25
    others = config.with_settings({"model": "reinforce"}), config.with_settings({"look_cost": 0.0})
    assert all(one.of_update(0) is one for one in others)


@pytest.mark.parametrize(
    "settings",
    [
        {"matching": "segment", "abstain": True, "segment_share": 0.5},
        {"model": "unlimited", "look_cost": 0.25, "abstain": False},
    ],
)
def test_a_run_resumes_where_the_reward_changes(settings):
    config = tiny_config(**settings, updates=4, validate_every=4)
    whole = Trainer(config, marked_splits())
    for _ in range(2):
        update(whole, *collect(whole))
        whole.num_updates += 1
    resumed = Trainer(config, marked_splits())
    resumed.load_state(copy.deepcopy(whole.state()))
    for trainer in (whole, resumed):
        rules = trainer.envs.engine.rules
        assert (rules.matching, rules.look_cost) == (config.task.matching, config.training.advanced.look_cost)
        update(trainer, *collect(trainer))
    for one, other in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_segments_every_update_trains_with_the_configuration_itself():
    config = tiny_config(abstain=True, classification_weight=0.1)
    assert config.of_update(0) is config


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


def test_the_network_learns_to_answer_with_a_class_and_to_abstain(tmp_path):
    """Only sampled classes speak against "no prediction", and a network once gave no other answer."""
    sources = {split: shown_in_the_middle(12, seed) for seed, split in enumerate(("train", "validation", "test"))}
    config = tiny_config(glimpses=1, updates=80, warmup_share=0.5, clips=12, abstain=True, validate_every=20)
    measured = train(config, tmp_path, sources=sources).measured
    assert (measured.true_positives, measured.false_positives) == (4.0, 0.0)
    assert measured.accuracy == measured.mean_average_precision == 1.0


def test_the_result_on_disk_equals_the_returned_one(finished):
    _, out, result = finished
    assert read_json(out / "evaluation.json")["test"]["accuracy"] == result.measured.accuracy
