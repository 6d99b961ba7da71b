"""The report of finished runs: one self-contained page."""

import base64
import dataclasses
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from agent_toys import tiny_config, write_marked_store
from extraction_inputs import write_video
from finished_runs import SOURCE, evaluation, run_result
from glimpse_agents import report
from glimpse_agents.compare import write_comparison
from glimpse_agents.cost.macs import read_costs
from glimpse_agents.learning.config import Config
from glimpse_agents.learning.models import MODELS
from glimpse_agents.pages import clips as report_clips
from glimpse_agents.pages.clips import choose_videos, compared_pair, describe_rule
from glimpse_agents.pages.experiments import Experiment, experiments_of, read_finished
from glimpse_agents.pages.html import INK, Markup, embedded, page, picture, table, tag
from glimpse_agents.pages.page import experiment_section, figures
from glimpse_agents.playing.envs import greedy_play, make_envs, open_splits
from glimpse_agents.playing.evaluation import EVALUATION_ENVS, class_scores, play_split
from glimpse_agents.reinforce import train
from glimpse_agents.report import costs_of
from glimpse_agents.runs.files import write_json
from glimpse_agents.runs.folder import RunFolder, RunRecord
from glimpse_agents.tables.comparison import facts, verdict
from glimpse_agents.tables.plots import STYLES
from glimpse_agents.tables.records import Record
from PIL import Image

from glimpse_env.extract import Folder, extract

VOID = {"img", "meta", "input"}


class StrictParser(HTMLParser):
    """Refuses tags that do not nest, content from elsewhere, and pictures and movies without a description."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.texts, self.names = [], set(), [], [], [], []
        self.movies, self.viewers = [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        assert tag not in ("link", "iframe", "object", "base")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        self.names.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            assert attributes["id"] not in self.ids
            self.ids.add(attributes["id"])
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "img":
            assert attributes["alt"].strip()
            assert attributes["src"].startswith("data:image/")
            self.images.append(attributes["src"])
        elif tag == "video":
            assert attributes["aria-label"].strip()
            assert "controls" in attributes
            assert "autoplay" not in attributes
            self.movies.append(
                base64.b64decode(attributes["src"].removeprefix("data:video/mp4;base64,"), validate=True)
            )
        else:
            assert "src" not in attributes
            assert "srcset" not in attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            assert "url(" not in data
            assert "@import" not in data
        elif self.open and self.open[-1] == "script":
            if data.startswith("["):
                self.viewers.append(json.loads(data))
        elif data.strip():
            assert self.open
            self.texts.append(data)


def parsed(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">')
    parser = StrictParser()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert {link.removeprefix("#") for link in parser.links} <= parser.ids
    assert not re.search(r"(href|src)=\"?(https?:|//)", text)
    for name in ("html", "head", "title", "body", "main", "h1"):
        assert parser.names.count(name) == 1
    return parser


def images_of(parser):
    pictures = []
    for source in parser.images:
        kind, content = re.fullmatch(r"data:image/(svg\+xml|webp);base64,(.+)", source).groups()
        content = base64.b64decode(content, validate=True)
        if kind == "webp":
            with Image.open(io.BytesIO(content)) as image:
                assert image.format == "WEBP"
                image.load()
        else:
            ElementTree.fromstring(content)
            assert b"currentColor" in content  # axes and text are dark on light, and light on dark
            assert INK.encode() not in content
        pictures.append(kind)
    return pictures


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_marked_store(tmp_path_factory.mktemp("store") / "marked")


MODEL_NAMES = ("reinforce", "soft", "random")  # in the order of MODELS


@pytest.fixture(scope="module")
def trained(tmp_path_factory, store):
    """Three models, each with two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        for model in MODEL_NAMES:
            train(tiny_config(source=str(store), model=model, seed=seed), folder / f"seed{seed}" / model)
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of three runs, to be changed, whose store is gone, which saves the time to draw clips."""
    folder = shutil.copytree(trained / "seed1", tmp_path / "runs")
    change_configs(folder, task={"source": str(tmp_path / "gone")})
    return folder


@pytest.fixture(scope="module")
def written(trained, store, tmp_path_factory):
    """Three runs on a store that has moved, their page, and the folder of its figures."""
    folder = tmp_path_factory.mktemp("written")
    runs = shutil.copytree(trained / "seed1", folder / "runs")
    change_configs(runs, task={"source": str(folder / "gone")})
    parser = write(runs, out=folder / "new" / "report.html", figures=folder / "figures", source=str(store))
    return runs, parser, folder / "figures"


def write(*runs, out, **options):
    report.main(report.Arguments(runs=runs, out=out, **options))
    return parsed(out)


def read(path):
    """Return the experiment in a folder."""
    (experiment,) = experiments_of(read_finished([path]))
    return experiment


def change_configs(folder, **blocks):
    """Change settings in blocks of the configuration of every run in a folder."""
    for path in folder.glob("*/config.json"):
        content = json.loads(path.read_text())
        for block, settings in blocks.items():
            content["config"][block].update(settings)
        path.write_text(json.dumps(content))


def shown(choices):
    return [(choice.video, choice.group) for choice in choices]


NAMES = ("reinforce", "soft")
BOTH = ("reinforce right, soft wrong", "reinforce wrong, soft right", "reinforce and soft right",
        "reinforce and soft wrong")  # fmt: skip


def test_each_group_gives_its_first_videos():
    #       0  1  2  3  4  5  6  7  8  9
    ours = [1, 1, 1, 0, 0, 1, 0, 0, 1, 1]
    soft = [1, 0, 1, 1, 0, 0, 1, 1, 0, 0]  # right against wrong: 1 5 8 9; wrong against right: 3 6 7
    assert shown(choose_videos(ours, soft, NAMES)) == [
        (1, BOTH[0]), (5, BOTH[0]), (3, BOTH[1]), (6, BOTH[1]), (0, BOTH[2]), (4, BOTH[3])
    ]  # fmt: skip


def test_missing_videos_of_a_group_are_taken_from_the_next():
    # one right against wrong (2), none of the reverse: three more of both right, then one of both wrong
    ours = [1, 1, 1, 1, 1, 1, 0, 0]
    soft = [1, 1, 0, 1, 1, 1, 0, 0]
    assert shown(choose_videos(ours, soft, NAMES)) == [
        (2, BOTH[0]), (0, BOTH[2]), (1, BOTH[2]), (3, BOTH[2]), (4, BOTH[2]), (6, BOTH[3])
    ]  # fmt: skip


def test_missing_videos_of_the_last_groups_are_taken_from_the_first():
    ours, soft = [1, 1, 1, 1, 0], [0, 0, 0, 0, 1]
    assert shown(choose_videos(ours, soft, NAMES)) == [*((video, BOTH[0]) for video in range(4)), (4, BOTH[1])]


def test_few_videos_are_all_shown_once():
    assert sorted(choice.video for choice in choose_videos([1, 0, 0], [1, 1, 0], NAMES)) == [0, 1, 2]


def test_a_model_alone_is_shown_right_and_wrong():
    right, wrong = "soft right", "soft wrong"
    expected = [(1, right), (2, right), (4, right), (5, right), (0, wrong), (3, wrong)]  # the fourth for a wrong one
    assert shown(choose_videos([0, 1, 1, 0, 1, 1], [0] * 6, ("soft", None))) == expected


@dataclasses.dataclass(frozen=True)
class Named:
    model: object


@pytest.mark.parametrize(
    ("models", "ours", "other"),
    [
        (("reinforce", "soft", "random"), "reinforce", "soft"),
        (("reinforce", "random", "centre"), "reinforce", "random"),
        (("reinforce", "gumbel", "soft_top"), "reinforce", "soft_top"),
        (("random", "mean"), "random", "mean"),
        (("soft",), "soft", None),
    ],
)
def test_reinforce_is_compared_with_soft_attention_if_it_was_trained(models, ours, other):
    watched = [Named(MODELS[model]) for model in models]
    first, second = compared_pair(watched)
    assert (first.model.name, second and second.model.name) == (ours, other)
    assert ours in describe_rule(watched)
    assert (other or f'3 of "{ours} right", 3 of "{ours} wrong"') in describe_rule(watched)


@pytest.mark.parametrize(
    ("model", "batch"), [("reinforce", 64), ("reinforce", 4), ("random", 64), ("soft", 64), ("soft", 4)]
)
def test_clips_are_shown_as_they_were_tested(trained, monkeypatch, model, batch):
    monkeypatch.setattr(report_clips, "EVALUATION_ENVS", batch)
    record = read(trained / "seed1" / model).first
    config = record.record.config
    test = open_splits(config)["test"]
    envs = make_envs(config, test, EVALUATION_ENVS, train=False)
    policy = record.run.best_policy(config, test)
    tested, _ = next(play_split(envs, policy, greedy_play(config), seed=config.training.seed))
    played = report_clips.play_as_tested(record, config, test, [5, 0, 2, 3])
    assert sorted(played) == [0, 2, 3, 5]
    for clip, episode in played.items():
        assert episode.rollout.clips.tolist() == [clip]
        np.testing.assert_allclose(episode.rollout.attention[0], tested.attention[clip], atol=1e-5)
        best = int(class_scores(episode.rollout.class_logits, 3).argmax())
        assert (episode.truth(0) == [best]) == record.test.correct[clip]


def test_a_page_holds_everything(written):
    runs, parser, copies = written
    text, experiment = "".join(parser.texts), read(runs)
    assert verdict(experiment.rows) in parser.texts
    assert {"model", "glimpses", "accuracy", "minus random", "clips"} <= set(parser.texts)
    for record in experiment.records:
        assert f"{record.test.accuracy:.3f}" in parser.texts, record.model.name
        assert f"{record.test.reward:.3f}" in parser.texts, record.model.name
        assert {record.model.name, record.model.title, str(record.run.path)} <= set(parser.texts)
    first = experiment.first.record
    assert first.versions["torch"] in text
    assert first.machine in text
    assert "policy.advanced.embedding_size" in parser.texts
    assert f"The rule: {describe_rule(experiment.watched)}" in parser.texts
    assert "6 test videos" in text
    assert "Fewer than 3 seeds: all models." in text
    # six test clips as a strip each, and three plots
    assert images_of(parser) == [*["webp"] * 6, *["svg+xml"] * 3]
    assert [path.name for path in (runs.parent / "new").iterdir()] == ["report.html"]
    files = {path.name for path in (copies / "1-gone").iterdir()}
    assert {"learning.png", "accuracy_by_frames.png", "visits.png", "clip-1.png", "clip-1.gif", "clip-6.gif"} <= files
    av = pytest.importorskip("av")
    assert len(parser.movies) == 6
    for movie in (io.BytesIO(parser.movies[5]), str(copies / "1-gone" / "clip-6.mp4")):
        with av.open(movie) as container:
            assert len(list(container.decode(video=0))) == 4


def test_events_of_untrimmed_clips_have_a_time_line(tmp_path):
    store = write_marked_store(tmp_path / "store", trimmed=False)
    train(tiny_config(source=str(store), credit="terminal"), tmp_path / "run")
    parser = write(tmp_path / "run", out=tmp_path / "report.html", figures=tmp_path / "figures")
    assert {"mAP", "detection mAP"} <= set(parser.texts)
    assert images_of(parser).count("webp") == 2 * 6  # a strip and a time line of each clip
    written = {path.name for path in (tmp_path / "figures" / "1-store").iterdir()}
    assert {"events-1.png", "events-6.png", "events_by_eta.png"} <= written


def test_the_viewer_gets_the_looks_and_scores_of_the_test(written, store):
    runs, parser, _ = written
    (clips,) = parser.viewers
    assert len(clips) == 6
    watched = read(runs).watched
    names = open_splits(watched[0].record.config.with_settings({"source": str(store)}))["test"].class_names
    for clip in clips:
        assert clip["grid"] == 3
        assert clip["seconds"] == [0.0, 0.1, 0.2, 0.3]
        assert len(clip["frames"]) == 4
        assert all(frame.startswith("data:image/webp;base64,") for frame in clip["frames"])
        (truth,) = set(clip["truth"])
        assert [label["name"] for label in clip["labels"] if label["isTrue"]] == [truth]
        assert {label["name"] for label in clip["labels"]} == set(names)
        assert [model["name"] for model in clip["models"]] == ["reinforce", "soft", "random"]
        for model in clip["models"]:
            assert model["colour"] == STYLES[model["name"]].colour
            np.testing.assert_allclose(np.sum(model["scores"], axis=0), 1, atol=0.002)  # three classes, rounded
            best = [clip["labels"][label]["name"] for label in np.argmax(model["scores"], axis=0)]
            assert [said.rsplit(" ", 1)[0] for said in model["said"]] == best
            assert model["isRight"] == [name == truth for name in best]
        reinforce, soft, _ = clip["models"]
        assert reinforce["cells"][0] is None  # seen whole
        assert all(len(set(cells)) == 2 for cells in reinforce["cells"][1:])
        assert soft["cells"] == reinforce["heat"] == [None] * 4
        assert [max(heat) for heat in soft["heat"]] == [100] * 4
        assert all(
            len(heat) == 9 and 1 / 9 <= top <= 1 for heat, top in zip(soft["heat"], soft["largest"], strict=True)
        )


def test_clips_that_do_not_fit_the_budget_are_left_out(runs, store):
    experiment = read(runs / "reinforce")
    clips = list(report_clips.split_clips(experiment.watched, device="cpu", source=str(store)))[:3]
    one = len(experiment_section(1, experiment, clips[:1], None))
    none = len(experiment_section(1, experiment, [], None))
    section = experiment_section(1, experiment, clips, None, budget=2.5 * (one - none))
    assert "2 of 3 clips are shown, to keep the page small. " in section
    assert section.count("<figcaption>reinforce") == 2
    assert "1 of 3 clips are shown" in experiment_section(1, experiment, clips, None, budget=1)  # the first one stays
    assert "clips are shown" not in experiment_section(1, experiment, clips, None, budget=3.5 * (one - none))


def test_a_whole_comparison_is_one_experiment(store, tmp_path):
    compared = tmp_path / "compared"
    runs = [(m, seed, model) for m in (1, 2) for seed in (1, 2) for model in MODEL_NAMES if m == 1 or model != "soft"]
    for glimpses, seed, model in runs:
        config = tiny_config(source=str(store), model=model, updates=2, warmup_share=0.0, glimpses=glimpses, seed=seed)
        train(config, compared / f"m{glimpses}" / f"seed{seed}" / model)
    (compared / "m2" / "seed2" / "random" / "evaluation.json").unlink()
    records = write_comparison(compared)
    parser = write(compared, out=tmp_path / "page.html", source=str(tmp_path / "gone"))  # no clips, to save time
    assert len(records) == 9
    experiment = read(compared)
    assert [(row.name, row.seeds) for row in experiment.rows] == [
        ("REINFORCE, 1 glimpse", [1, 2]), ("REINFORCE, 2 glimpses", [1, 2]),
        ("soft attention, content and state", [1, 2]), ("random, 1 cell", [1, 2]), ("random, 2 cells", [1]),
    ]  # fmt: skip
    ours, soft, random = experiment.watched
    assert (ours.model.name, soft.model.name, random.model.name) == ("reinforce", "soft", "random")
    assert ours.glimpses == random.glimpses
    assert ours.seed == soft.seed == 1
    means = {row.glimpses: row.mean("validation_accuracy").mean for row in experiment.rows[:2]}
    assert means[ours.glimpses] == max(means.values())
    assert set(figures(experiment, read_costs(compared / "costs.json"))) == {
        "accuracy_by_glimpses", "accuracy_by_frames", "accuracy_by_compute", "learning", "visits"
    }  # fmt: skip
    for line in (compared / "table.md").read_text().splitlines():
        if line.startswith("| ") and "---" not in line:
            assert set(line.strip("| ").split(" | ")) <= set(parser.texts)


def test_an_unfinished_run_of_a_folder_is_left_out_and_named(runs, tmp_path, capsys):
    (runs / "soft" / "evaluation.json").unlink()
    parser = write(runs, out=tmp_path / "page.html")
    assert f"{runs}/soft is not finished, and left out" in capsys.readouterr().err
    assert "soft attention, content and state" not in parser.texts


def test_published_figures_are_shown(runs, tmp_path):
    (tmp_path / "paper.csv").write_text("model,measure,value,source\nsoft attention,accuracy,41.3,A et al.\n")
    parser = write(runs, out=tmp_path / "page.html", reported=tmp_path / "paper.csv")
    assert {"soft attention (reported by A et al.)", "41.3"} <= set(parser.texts)


def test_videos_of_ones_own_are_watched(weights, tmp_path, capsys):
    for name, frames in {"run/a": 8, "run/b": 9, "run/c": 6, "walk/a": 7, "walk/b": 8, "walk/c": 6}.items():
        (tmp_path / "videos" / name).parent.mkdir(exist_ok=True, parents=True)
        write_video(tmp_path / "videos" / f"{name}.mp4", frames=frames)
    store = extract(
        Folder(
            videos=tmp_path / "videos", out=tmp_path / "store", weights=weights, frames=3, max_frames=6, fps=10.0,
            batch_size=4, threads=1,
        )
    )  # fmt: skip
    for model in ("reinforce", "soft"):
        config = tiny_config(source=str(store), model=model, updates=2, warmup_share=0.0, observation="cube")
        train(config, tmp_path / "runs" / model)
    write_video(tmp_path / "mine.mp4", frames=30)  # ten frames of 0.1 s: more than an episode has
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    given = (tmp_path / "broken.mp4", tmp_path / "mine.mp4")
    parser = write(tmp_path / "runs", out=tmp_path / "page.html", videos=given, weights=weights)
    ((clip,),) = parser.viewers
    assert (clip["name"], clip["group"], clip["grid"]) == ("mine.mp4", "your video", 7)
    assert clip["truth"] == [""] * len(clip["seconds"])
    assert not any(label["isTrue"] for label in clip["labels"])
    assert len(clip["frames"]) == len(clip["seconds"]) == 10
    np.testing.assert_allclose(clip["seconds"], np.arange(10) / 10, atol=0.02)
    assert [model["name"] for model in clip["models"]] == ["reinforce", "soft"]
    for model in clip["models"]:
        assert model["isRight"] == [None] * 10
        assert np.shape(model["scores"]) == (2, 10)
    assert "The rule: the videos that you named." in parser.texts
    assert "skipped: " in (said := capsys.readouterr().err)
    assert "broken.mp4" in said
    with pytest.raises(ValueError, match="none of the 1 videos could be read"):
        write(tmp_path / "runs", out=tmp_path / "page.html", videos=given[:1], weights=weights)


def test_videos_need_runs_on_a_store(runs, tmp_path):
    path = runs / "reinforce" / "config.json"
    content = json.loads(path.read_text())
    content["source"]["extraction"] = None  # as on the synthetic source
    content["config"]["task"]["source"] = "synthetic"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was trained on 'synthetic', which is neither a feature store nor a lazy"):
        write(runs / "reinforce", out=tmp_path / "page.html", videos=(tmp_path / "a.mp4",))


def test_every_model_has_an_appearance_of_its_own():
    assert STYLES.keys() == MODELS.keys()
    for name in ("colour", "marker"):
        assert len({getattr(style, name) for style in STYLES.values()}) == len(MODELS)
    assert len({(style.marker, style.dash) for style in STYLES.values()}) == len(MODELS)  # without colour, too


def test_the_film_strips_of_the_runs_are_shown(runs, tmp_path):
    Image.new("RGB", (30, 20)).save(runs / "soft" / "glimpses.png")
    (runs / "random" / "glimpses.png").unlink(missing_ok=True)
    (runs / "reinforce" / "glimpses.png").unlink(missing_ok=True)
    parser = write(runs, out=tmp_path / "report.html")
    assert any(text.startswith("glimpses.png of soft: ") for text in parser.texts)
    assert images_of(parser) == ["webp", *["svg+xml"] * 3]


def test_the_same_page_twice(runs, tmp_path):
    for name in ("one.html", "two.html"):
        write(runs, out=tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_runs_that_differ_in_the_seed_share_a_row(trained, runs, tmp_path):
    second, other = shutil.copytree(trained / "seed2", tmp_path / "second"), shutil.copytree(runs, tmp_path / "other")
    change_configs(second, task={"source": str(tmp_path / "gone")})
    change_configs(other, training={"learning_rate": 0.5})
    parser = write(runs, second, other, out=tmp_path / "report.html")
    (experiment,) = experiments_of(read_finished([runs, second, other]))
    assert [(row.model.name, row.seeds) for row in experiment.rows] == [
        (name, seeds) for name in MODEL_NAMES for seeds in ([1, 2], [1])
    ]
    for row in experiment.rows:
        assert row.mean("accuracy").text() in parser.texts


def test_an_experiment_has_the_costs_of_its_own_comparison(trained, tmp_path):
    one, two = (shutil.copytree(trained / "seed1", tmp_path / name) for name in ("one", "two"))
    change_configs(two, task={"eta": 0.25})
    for path, spent in ((one, 1.0), (two, 2.0)):
        write_json(path / "costs.json", {"random, 2 cells": {"policy": spent, "network": None, "runs": "1"}})
    experiments = experiments_of(read_finished([one, two]))
    assert [costs_of(experiment, [one, two])["random, 2 cells"].policy for experiment in experiments] == [1.0, 2.0]


def test_differing_numbers_of_updates_are_all_named(trained, tmp_path):
    folder = shutil.copytree(trained / "seed1", tmp_path / "runs")
    change_configs(folder.rename(tmp_path / "moved"), training={"updates": 9})
    shutil.copytree(trained / "seed1" / "soft", tmp_path / "moved" / "soft", dirs_exist_ok=True)
    (experiment,) = experiments_of(read_finished([tmp_path / "moved"]))
    updates = RunFolder(trained / "seed1" / "soft").record().config.training.updates
    assert f" 9 or {updates} updates of " in facts(experiment.records)[0]


@pytest.mark.parametrize(("first_glance", "seen"), [("whole", "it sees all of"), ("none", "it sees nothing of")])
def test_the_page_says_what_is_seen_of_the_first_frame(store, tmp_path, first_glance, seen):
    train(tiny_config(source=str(store), first_glance=first_glance), tmp_path / "run")
    parser = write(tmp_path / "run", out=tmp_path / "report.html")
    assert any(f"in the order of choice; {seen} the first frame." in text for text in parser.texts)


def test_names_are_escaped(runs, tmp_path):
    folder = runs.rename(tmp_path / '<b> & "quoted"')
    for path in folder.glob("*/config.json"):
        content = json.loads(path.read_text())
        content["config"]["task"]["source"] = str(tmp_path / '<b> & "gone"')
        path.write_text(json.dumps(content | {"machine": "<script>alert(1)</script>"}))
    parser = write(folder, out=tmp_path / "report.html")
    assert 'VideoGlimpse: <b> & "gone"' in parser.texts
    assert f"{folder}/soft" in parser.texts
    assert "b" not in parser.names
    assert any("<script>alert(1)</script>" in text for text in parser.texts)


def test_all_text_but_markup_is_escaped():
    assert tag("p", "a < b", tag("b", "&"), class_='"x"') == '<p class="&quot;x&quot;">a &lt; b<b>&amp;</b></p>'
    assert tag("nav", aria_label="x") == '<nav aria-label="x"></nav>'
    assert tag("td", Markup("<i>")) == "<td><i></td>"
    assert table(["<"], [["<", "a"]]).count("&lt;") == 2
    assert 'alt="&lt;clip&gt;"' in picture(b"", "<clip>")
    assert "<title>&lt;</title>" in page("<", "")
    assert embedded(["</script>"]) == '["\\u003c/script>"]'


def test_without_the_store_everything_but_the_clips_is_shown(runs, tmp_path, capsys):
    parser = write(runs, out=tmp_path / "report.html")
    (sentence,) = [text for text in parser.texts if text.startswith("The clips are left out:")]
    assert str(tmp_path / "gone") in sentence
    assert images_of(parser) == ["svg+xml"] * 3
    assert parser.viewers == []
    printed = capsys.readouterr()
    assert "left out" in printed.err
    assert f"wrote {tmp_path}/report.html" in printed.out


def test_clips_need_the_store_of_the_test(runs, tmp_path):
    other = write_marked_store(tmp_path / "other", frames_per_second=5.0)
    parser = write(runs, out=tmp_path / "report.html", source=str(other))
    assert any("is not the store that" in text and "name that store with --source" in text for text in parser.texts)
    assert len(parser.images) == 3


def test_unknown_measures_have_no_column(runs, tmp_path):
    for path in runs.glob("*/evaluation.json"):
        content = json.loads(path.read_text())
        content["test"] |= {"top3": 0.8125, "mean_average_precision": None, "visits": None}
        path.write_text(json.dumps(content))
    parser = write(runs, out=tmp_path / "report.html")
    assert {"top 3", "0.812"} <= set(parser.texts)
    assert "mAP" not in parser.texts
    assert images_of(parser) == ["svg+xml"] * 2  # without maps of the looks


def test_runs_without_metrics_have_no_curves(runs, tmp_path):
    for path in runs.rglob("metrics.jsonl"):
        path.unlink()
    assert len(write(runs, out=tmp_path / "report.html").images) == 2


def test_an_unfinished_run_is_named_with_the_remedy(runs, trained, tmp_path):
    (runs / "soft" / "evaluation.json").unlink()
    out = tmp_path / "report.html"
    with pytest.raises(FileNotFoundError, match=f"{runs}/soft is not finished: .*--resume {runs}/soft"):
        write(trained / "seed1", runs / "soft", out=out)
    assert not out.exists()


def test_a_run_without_a_test_is_named_with_the_remedy(store, tmp_path):
    train(tiny_config(source=str(store), updates=2), tmp_path / "run", test=False)
    with pytest.raises(ValueError, match=f"the test split was not played with {tmp_path}/run: leave it out, or"):
        read(tmp_path / "run")


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no run in {tmp_path}"):
        write(tmp_path, out=tmp_path / "report.html")


@pytest.mark.parametrize(
    ("names", "out", "message"),
    [
        ((), "page.html", "at least one run"),
        (("a",), ".", "is a folder"),
        (("a",), "page.txt", r"--out must end in \.html, got 'page\.txt'"),
    ],
)
def test_arguments_are_checked(tmp_path, names, out, message):
    with pytest.raises(ValueError, match=message):
        report.Arguments(runs=tuple(tmp_path / name for name in names), out=tmp_path / out)


def test_a_run_that_is_named_twice_is_refused(runs):
    with pytest.raises(ValueError, match=f"{runs}/soft is named twice: name each run once"):
        read_finished([runs, runs / ".." / "runs" / "soft"])


def test_experiments_are_the_runs_on_one_task_and_source(trained, runs, tmp_path):
    other = shutil.copytree(runs, tmp_path / "other")
    change_configs(other, task={"eta": 0.25})
    records = read_finished([trained, runs, other])
    # The store of `runs` is the same, at another path.
    assert [(one.name, len(one.records)) for one in experiments_of(records)] == [("marked", 9), ("gone", 3)]


def test_of_many_models_four_are_watched(tmp_path):
    models = ("mean", "max", "random", "soft", "oracle", "all")
    records = [fake_record(model, accuracy=0.5) for model in models]
    assert [one.model.name for one in Experiment("", tuple(records)).watched] == ["soft", "random", "oracle", "mean"]
    records += [fake_record(model, accuracy=0.4, glimpses=1) for model in ("random", "reinforce")]
    records.append(fake_record("reinforce", accuracy=0.6))
    watched = Experiment("", tuple(records)).watched
    assert [one.model.name for one in watched] == ["reinforce", "soft", "random", "oracle"]
    assert [one.glimpses for one in watched] == [5, None, 5, 5]


def fake_record(model, *, accuracy, **settings):
    config = Config().with_settings({"model": model} | settings)
    facts = RunRecord(config=config, source=SOURCE, versions={}, machine="M", threads=1, git_commit="c")
    return Record(RunFolder(Path("nowhere")), facts, run_result(evaluation([True, False]), validation=accuracy))
