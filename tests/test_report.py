"""The report of finished runs: one self-contained page."""

import base64
import dataclasses
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from agent_toys import tiny_config, write_marked_store
from glimpse_agents import report
from glimpse_agents.compare import write_comparison
from glimpse_agents.learning.models import MODELS
from glimpse_agents.pages import clips as report_clips
from glimpse_agents.pages.clips import choose_videos, compared_pair, describe_rule
from glimpse_agents.pages.experiments import Experiment, experiments_of, read_finished, rows_over_seeds
from glimpse_agents.pages.html import Markup, page, picture, table, tag
from glimpse_agents.playing.envs import greedy_play, make_envs, open_splits
from glimpse_agents.playing.evaluation import EVALUATION_ENVS, class_scores, play_split
from glimpse_agents.reinforce import train
from glimpse_agents.runs.folder import RunFolder, find_runs
from PIL import Image

VOID = {"img", "meta"}


class StrictParser(HTMLParser):
    """Refuses tags that do not nest, content from elsewhere, and pictures without a description."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.texts, self.names = [], set(), [], [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        assert tag not in ("script", "link", "iframe", "object", "base")
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
        else:
            assert "src" not in attributes
            assert "srcset" not in attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            assert "url(" not in data
            assert "@import" not in data
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
        kind, content = re.fullmatch(r"data:image/(png|gif|webp);base64,(.+)", source).groups()
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as image:
            assert image.format.lower() == kind
            for frame in range(getattr(image, "n_frames", 1)):
                image.seek(frame)
                image.load()
            pictures.append((kind, getattr(image, "n_frames", 1)))
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


def write(*runs, out, **options):
    report.main(report.Arguments(runs=runs, out=out, **options))
    return parsed(out)


def read(path):
    """Return the experiment in a folder."""
    (experiment,) = experiments_of(read_finished(find_runs(path)))
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
    assert shown(choose_videos([0, 1, 1, 0, 1, 1], None, ("soft", None))) == expected


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
    experiment = Experiment("", tuple(Named(MODELS[model]) for model in models))
    first, second = compared_pair(experiment)
    assert (first.model.name, second and second.model.name) == (ours, other)
    assert ours in describe_rule(experiment)
    assert (other or "first three") in describe_rule(experiment)


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


def test_a_page_holds_everything(runs, store, tmp_path, capsys):
    figures = tmp_path / "figures"
    parser = write(runs, out=tmp_path / "new" / "report.html", figures=figures, source=str(store))
    text = "".join(parser.texts)
    experiment = read(runs)
    for record in experiment.records:
        assert f"{record.test.accuracy:.3f}" in parser.texts, record.model.name
        assert f"{record.test.reward:.3f}" in parser.texts, record.model.name
        assert f"{record.model.name}: {record.model.title}" in text
    first = experiment.first.record
    assert {"reinforce", "random", "soft"} <= set(parser.texts)
    assert first.versions["torch"] in text
    assert first.machine in text
    assert "policy.advanced.embedding_size" in parser.texts
    assert f"The rule: {describe_rule(experiment)}" in parser.texts
    assert "6 videos" in text
    # three plots, and six test clips as a strip and as four frames of a movie each
    assert images_of(parser) == [*[("png", 1)] * 3, *[("webp", 1), ("gif", 4)] * 6]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]
    assert "wrote" in capsys.readouterr().out
    written = {path.name for path in (figures / "1-runs").iterdir()}
    assert {"learning.png", "frames_seen.png", "visits.png", "clip-1.png", "clip-1.gif", "clip-6.gif"} <= written
    av = pytest.importorskip("av")
    with av.open(str(figures / "1-runs" / "clip-6.mp4")) as container:
        assert len(list(container.decode(video=0))) == 4


def test_a_comparison_comes_first(runs, store, tmp_path):
    compared = tmp_path / "compared"
    for glimpses, model in ((1, "reinforce"), (1, "soft"), (1, "random"), (2, "reinforce")):
        config = tiny_config(source=str(store), model=model, updates=2, warmup_share=0.0, glimpses=glimpses)
        train(config, compared / f"m{glimpses}" / "seed1" / model)
    written = write_comparison(compared)
    seen = write(runs, comparison=compared, out=tmp_path / "page.html")
    assert {"comparison", "results"} <= seen.ids
    first = (tmp_path / "page.html").read_text().split('id="results"')[0]
    lines = [line for line in written.splitlines() if line.startswith("|")]
    assert first.count("<tr>") == len(lines) - 1
    for line in lines[2:]:
        for cell in line.strip("| ").split(" | "):
            assert f">{cell}</t" in first
    assert "This table makes " in first
    figures = [base64.b64encode(path.read_bytes()).decode() for path in compared.glob("*.png")]
    assert len(figures) == 3
    assert all(figure in first for figure in figures)


def test_a_folder_without_a_comparison_is_named(runs, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no summary.csv in .*: name a folder that agents.compare wrote"):
        report.main(report.Arguments(runs=(runs,), comparison=tmp_path, out=tmp_path / "page.html"))


def test_a_comparison_of_another_version_is_named(runs, tmp_path):
    (tmp_path / "summary.csv").write_text("model,m,measure,mean\nsoft,,accuracy,0.5\n")
    with pytest.raises(ValueError, match=r"summary.csv, line 2: of another version .*run agents.compare again"):
        report.main(report.Arguments(runs=(runs,), comparison=tmp_path, out=tmp_path / "page.html"))


def test_the_film_strips_of_the_runs_are_shown(runs, tmp_path):
    Image.new("RGB", (30, 20)).save(runs / "soft" / "glimpses.png")
    (runs / "random" / "glimpses.png").unlink(missing_ok=True)
    (runs / "reinforce" / "glimpses.png").unlink(missing_ok=True)
    parser = write(runs, out=tmp_path / "report.html")
    assert any(text.startswith("glimpses.png of soft: ") for text in parser.texts)
    assert images_of(parser) == [*[("png", 1)] * 3, ("webp", 1)]


def test_the_same_page_twice(runs, tmp_path):
    for name in ("one", "two"):
        write(runs, out=tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_runs_that_differ_in_the_seed_share_a_row(trained, runs, tmp_path):
    second, other = shutil.copytree(trained / "seed2", tmp_path / "second"), shutil.copytree(runs, tmp_path / "other")
    change_configs(second, task={"source": str(tmp_path / "gone")})
    change_configs(other, training={"learning_rate": 0.5})
    parser = write(runs, second, other, out=tmp_path / "report.html")
    assert parser.texts.count("Means over seeds, with 95 % intervals") == 1
    assert parser.texts.count("1, 2") == 3
    records = read_finished([run for folder in (runs, second, other) for run in find_runs(folder)])
    (rows,) = rows_over_seeds(records)
    assert [(row.model.name, len(row.records)) for row in rows] == [
        (name, seeds) for seeds in (2, 1) for name in MODEL_NAMES
    ]
    for row in rows[:3]:
        assert row.mean("accuracy").text() in parser.texts
        assert len({record.seed for record in row.records}) == 2
    assert {"run-1", "run-2", "run-3"} <= parser.ids


def test_names_are_escaped(runs, tmp_path):
    folder = runs.rename(tmp_path / '<b> & "quoted"')
    for path in folder.glob("*/config.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"machine": "<script>alert(1)</script>"}))
    parser = write(folder, out=tmp_path / "report.html")
    assert '<b> & "quoted"' in parser.texts
    assert "b" not in parser.names
    assert any("<script>alert(1)</script>" in text for text in parser.texts)


def test_all_text_but_markup_is_escaped():
    assert tag("p", "a < b", tag("b", "&"), class_='"x"') == '<p class="&quot;x&quot;">a &lt; b<b>&amp;</b></p>'
    assert tag("nav", aria_label="x") == '<nav aria-label="x"></nav>'
    assert tag("td", Markup("<i>")) == "<td><i></td>"
    assert table(["<"], [["<", "a"]]).count("&lt;") == 2
    assert 'alt="&lt;clip&gt;"' in picture(b"", "<clip>")
    assert "<title>&lt;</title>" in page("<", "")


def test_without_the_store_everything_but_the_clips_is_shown(runs, tmp_path, capsys):
    parser = write(runs, out=tmp_path / "report.html")
    (sentence,) = [text for text in parser.texts if text.startswith("The clips are left out:")]
    assert str(tmp_path / "gone") in sentence
    assert images_of(parser) == [("png", 1)] * 3
    assert "left out" in capsys.readouterr().err


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
    assert images_of(parser) == [("png", 1)] * 2  # without maps of the looks


def test_runs_without_metrics_have_no_curves(runs, tmp_path):
    for path in runs.rglob("metrics.jsonl"):
        path.unlink()
    assert len(write(runs, out=tmp_path / "report.html").images) == 2


def test_an_unfinished_run_is_named_with_the_remedy(runs, trained, tmp_path):
    (runs / "soft" / "evaluation.json").unlink()
    out = tmp_path / "report.html"
    with pytest.raises(FileNotFoundError, match=f"{runs}/soft is not finished: .*--resume {runs}/soft"):
        write(trained / "seed1", runs, out=out)
    assert not out.exists()


def test_a_run_without_a_test_is_named_with_the_remedy(store, tmp_path):
    train(tiny_config(source=str(store), updates=2), tmp_path / "run", test=False)
    with pytest.raises(ValueError, match=f"the test split was not played with {tmp_path}/run: leave it out, or"):
        read(tmp_path / "run")


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no run in {tmp_path}"):
        write(tmp_path, out=tmp_path / "report.html")


@pytest.mark.parametrize(("names", "out", "message"), [((), "page", "at least one run"), (("a",), ".", "is a folder")])
def test_arguments_are_checked(tmp_path, names, out, message):
    with pytest.raises(ValueError, match=message):
        report.Arguments(runs=tuple(tmp_path / name for name in names), out=tmp_path / out)


def test_a_run_that_is_named_twice_is_refused(runs):
    with pytest.raises(ValueError, match=f"{runs}/soft is named twice: name each run once"):
        read_finished([*find_runs(runs), RunFolder(runs / ".." / "runs" / "soft")])


def test_experiments_are_the_runs_of_one_folder_and_seed(trained, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(trained / "seed1", tmp_path / name / "run")
    mixed = tmp_path / "mixed"
    for name, origin in (
        ("one", "seed1/soft"),
        ("two", "seed1/soft"),
        ("three", "seed1/random"),
        ("four", "seed2/soft"),
    ):
        shutil.copytree(trained / origin, mixed / name)
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", mixed]
    experiments = experiments_of(read_finished([run for path in paths for run in find_runs(path)]))
    assert [(one.name, len(one.records)) for one in experiments] == [
        (str(paths[0]), 3), (str(paths[1]), 3), ("four", 1), ("mixed", 2), ("two", 1)
    ]  # fmt: skip
