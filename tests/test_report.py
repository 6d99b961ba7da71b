"""The report of finished runs: one page, whole, that needs nothing else."""

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
from glimpse_agents.pages import clips as report_clips
from glimpse_agents.pages.clips import choose_videos, rival_of, rule
from glimpse_agents.pages.html import Markup, page, picture, table, tag
from glimpse_agents.playing.envs import greedy_manner, make_envs, open_splits
from glimpse_agents.playing.evaluation import class_scores, play_split
from glimpse_agents.reinforce import train
from glimpse_agents.runs.finished import FinishedRun
from glimpse_agents.runs.results import EVALUATION_ENVS, best_policy
from PIL import Image

VOID = {"img", "meta"}


class StrictParser(HTMLParser):
    """Refuses what does not nest, what is fetched from elsewhere, and pictures that say nothing."""

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


@pytest.fixture(scope="module")
def trained(tmp_path_factory, store):
    """Two runs that differ in their seed."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        train(tiny_config(source=str(store), controls=("random", "soft"), seed=seed), folder / f"seed{seed}")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run, to be changed, whose store is gone, which saves the time to draw strips."""
    folder = shutil.copytree(trained / "seed1", tmp_path / "run")
    change(folder / "config.json", lambda content: content["config"].update(source=str(tmp_path / "gone")))
    return folder


def write(*runs, out, **options):
    report.main(report.Arguments(runs=runs, out=out, **options))
    return parsed(out)


def change(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def shown(choices):
    return [(choice.video, choice.group) for choice in choices]


BOTH = ("REINFORCE right, soft wrong", "REINFORCE wrong, soft right", "REINFORCE and soft right",
        "REINFORCE and soft wrong")  # fmt: skip


def test_each_group_gives_its_first_videos():
    #           0  1  2  3  4  5  6  7  8  9
    learned = [1, 1, 1, 0, 0, 1, 0, 0, 1, 1]
    soft = [1, 0, 1, 1, 0, 0, 1, 1, 0, 0]  # right against wrong: 1 5 8 9; wrong against right: 3 6 7
    assert shown(choose_videos(learned, soft)) == [
        (1, BOTH[0]), (5, BOTH[0]), (3, BOTH[1]), (6, BOTH[1]), (0, BOTH[2]), (4, BOTH[3])
    ]  # fmt: skip


def test_what_a_group_lacks_is_taken_from_the_next():
    # one right against wrong (2), none the other way round: three more of both right, then one of both wrong
    learned = [1, 1, 1, 1, 1, 1, 0, 0]
    soft = [1, 1, 0, 1, 1, 1, 0, 0]
    assert shown(choose_videos(learned, soft)) == [
        (2, BOTH[0]), (0, BOTH[2]), (1, BOTH[2]), (3, BOTH[2]), (4, BOTH[2]), (6, BOTH[3])
    ]  # fmt: skip


def test_what_the_last_groups_lack_is_taken_from_the_first():
    learned, soft = [1, 1, 1, 1, 0], [0, 0, 0, 0, 1]
    assert shown(choose_videos(learned, soft)) == [*((video, BOTH[0]) for video in range(4)), (4, BOTH[1])]


def test_few_videos_are_all_shown_once():
    assert sorted(choice.video for choice in choose_videos([1, 0, 0], [1, 1, 0])) == [0, 1, 2]


def test_without_a_rival_right_and_wrong_are_shown():
    right, wrong = "REINFORCE right", "REINFORCE wrong"
    expected = [(1, right), (2, right), (4, right), (5, right), (0, wrong), (3, wrong)]  # the fourth for a wrong one
    assert shown(choose_videos([0, 1, 1, 0, 1, 1])) == expected


@pytest.mark.parametrize(
    ("arms", "rival"),
    [(("learned", "random", "soft"), "soft"), (("learned", "centre", "random"), "random"), (("learned",), None)],
)
def test_the_rival_is_soft_attention_where_there_is_one(arms, rival):
    assert rival_of(arms) == rival
    assert (rival or "first three") in rule(arms)


@pytest.mark.parametrize(
    ("looking", "batch"), [("learned", 64), ("learned", 4), ("random", 64), ("soft", 64), ("soft", 4)]
)
def test_clips_are_shown_as_they_were_tested(trained, monkeypatch, looking, batch):
    monkeypatch.setattr(report_clips, "EVALUATION_ENVS", batch)
    run = FinishedRun.read(trained / "seed1")
    config = report.Config.from_json(run.config)
    test = open_splits(config)["test"]
    envs = make_envs(config, test, EVALUATION_ENVS, train=False, looking=looking)
    policy = best_policy(config, run.folder, test, looking)
    tested, _ = next(play_split(envs, policy, greedy_manner(config, looking), seed=config.seed))
    played = report_clips.play_as_tested(config, run.folder, test, [5, 0, 2, 3], looking)
    assert sorted(played) == [0, 2, 3, 5]
    for clip, episode in played.items():
        assert episode.rollout.clips.tolist() == [clip]
        np.testing.assert_allclose(episode.rollout.attention[0], tested.attention[clip], atol=1e-5)
        best = int(class_scores(episode.rollout.class_logits, 3).argmax())
        assert (episode.truth(0) == [best]) == run.measured("correct")[looking][clip]


def test_a_page_holds_everything(run, store, tmp_path, capsys):
    figures = tmp_path / "figures"
    parser = write(run, out=tmp_path / "new" / "report.html", figures=figures, source=str(store))
    said = "".join(parser.texts)
    run = FinishedRun.read(run)
    for arm, evaluation in run.evaluations.items():
        assert f"{evaluation['test']['accuracy']:.3f}" in parser.texts, arm
        assert f"{evaluation['test']['reward']:.3f}" in parser.texts, arm
    assert {"REINFORCE", "random", "soft"} <= set(parser.texts)
    assert run.content["versions"]["torch"] in said
    assert run.content["machine"] in said
    assert "policy.embedding_size" in parser.texts
    assert f"The rule: {rule(['learned', 'random', 'soft'])}" in parser.texts
    assert "6 videos" in said
    # three plots, six test clips as a strip and four moving frames each, and the run's own strip
    assert images_of(parser) == [*[("png", 1)] * 3, *[("webp", 1), ("gif", 4)] * 6, ("webp", 1)]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]
    assert "wrote" in capsys.readouterr().out
    written = {path.name for path in (figures / "1-run").iterdir()}
    assert {"learning.png", "clip-1.png", "clip-1.gif", "clip-6.gif"} <= written
    av = pytest.importorskip("av")
    with av.open(str(figures / "1-run" / "clip-6.mp4")) as container:
        assert len(list(container.decode(video=0))) == 4


def test_a_comparison_comes_first(run, store, tmp_path):
    config = tiny_config(source=str(store), controls=("soft",), updates=2, warmup_updates=0)
    for glimpses in (1, 2):
        folder = tmp_path / "compared" / f"m{glimpses}" / "seed1"
        train(dataclasses.replace(config, glimpses=glimpses, seed=1), folder)
    written = write_comparison(tmp_path / "compared")
    report.main(report.Arguments(runs=(run,), comparison=tmp_path / "compared", out=tmp_path / "page.html"))
    seen = parsed(tmp_path / "page.html")
    assert {"comparison", "results"} <= seen.ids
    first = (tmp_path / "page.html").read_text().split('id="results"')[0]
    lines = [line for line in written.splitlines() if line.startswith("|")]
    assert first.count("<tr>") == len(lines) - 1
    for cell in lines[2].strip("| ").split(" | "):
        assert f">{cell}</t" in first
    assert "Soft attention reads every slice" in first
    figures = [base64.b64encode(path.read_bytes()).decode() for path in (tmp_path / "compared").glob("*.png")]
    assert len(figures) == 3
    assert all(figure in first for figure in figures)


def test_a_folder_that_is_no_comparison_is_named(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no table.md in .*: it is not the folder of a comparison"):
        report.main(report.Arguments(runs=(run,), comparison=tmp_path, out=tmp_path / "page.html"))


def test_the_same_page_twice(run, tmp_path):
    for name in ("one", "two"):
        write(run, out=tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_seeds_are_put_together_and_others_apart(trained, run, tmp_path):
    other, second = (shutil.copytree(run, tmp_path / name) for name in ("other", "second"))
    change(other / "config.json", lambda content: content["config"].update(learning_rate=0.5))
    change(second / "config.json", lambda content: content["config"].update(seed=2))
    shutil.copy(trained / "seed2" / "result.json", second)
    parser = write(run, other, second, out=tmp_path / "report.html")
    together = [text for text in parser.texts if text.startswith("Mean and 95 % interval")]
    assert together == ["Mean and 95 % interval over the seeds of run, second"]
    accuracies = [FinishedRun.read(trained / name).tests["learned"]["accuracy"] for name in ("seed1", "seed2")]
    half = abs(accuracies[0] - accuracies[1]) / 2 * 12.7062  # t(0.975, 1), of the standard error |a - b| / 2
    assert f"{np.mean(accuracies):.3f} ± {half:.3f}" in parser.texts
    assert {"run-1", "run-2", "run-3"} <= parser.ids


def test_names_are_escaped(run, tmp_path):
    folder = run.rename(tmp_path / '<b> & "quoted"')
    change(folder / "config.json", lambda content: content.update(machine="<script>alert(1)</script>"))
    parser = write(folder, out=tmp_path / "report.html")
    assert '<b> & "quoted"' in parser.texts
    assert "b" not in parser.names
    assert any("<script>alert(1)</script>" in text for text in parser.texts)


def test_markup_escapes_what_is_not_markup():
    assert tag("p", "a < b", tag("b", "&"), class_='"x"') == '<p class="&quot;x&quot;">a &lt; b<b>&amp;</b></p>'
    assert tag("nav", aria_label="x") == '<nav aria-label="x"></nav>'
    assert tag("td", Markup("<i>")) == "<td><i></td>"
    assert table(["<"], [["<", "a"]]).count("&lt;") == 2
    assert 'alt="&lt;clip&gt;"' in picture(b"", "<clip>")
    assert "<title>&lt;</title>" in page("<", "")


def test_without_the_store_the_rest_is_there(run, tmp_path, capsys):
    parser = write(run, out=tmp_path / "report.html")
    (sentence,) = [text for text in parser.texts if text.startswith("The strips are left out:")]
    assert str(tmp_path / "gone") in sentence
    assert images_of(parser) == [*[("png", 1)] * 3, ("webp", 1)]
    assert "left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("correct", [True], "6 test videos, and the run was tested on 1"), ("correct", None, "did not keep which videos")],
)
def test_strips_need_the_outcomes_of_this_split(run, store, tmp_path, field, value, reason):
    for path in (run, run / "controls" / "random", run / "controls" / "soft"):
        change(path / "evaluation.json", lambda content: content["test"].update({field: value}))
    parser = write(run, out=tmp_path / "report.html", source=str(store))
    assert any(reason in text for text in parser.texts)
    assert len(parser.images) == 4


def test_the_configuration_of_another_version_costs_the_strips_alone(run, tmp_path):
    change(run / "config.json", lambda content: content["config"].update(from_the_future=3))
    parser = write(run, out=tmp_path / "report.html")
    assert any("from_the_future" in text and "left out" in text for text in parser.texts)
    assert "from_the_future" in parser.texts


def test_measures_that_are_there_are_shown(run, tmp_path):
    known = {"top3": 0.8125, "hit_at_3": 0.4375}
    lost = ("mean_average_precision", "accuracy_by_frames", "visits")

    def forget(content):
        content["test"].update(known)
        for name in lost:
            del content["test"][name]

    for path in (run, *(run / "controls").iterdir()):
        change(path / "evaluation.json", forget)
    parser = write(run, out=tmp_path / "report.html")
    assert {"top 3", "0.812", "Hit@3", "0.438"} <= set(parser.texts)
    assert "mAP" not in parser.texts
    assert images_of(parser) == [("png", 1), ("webp", 1)]  # learning curves and the run's own strip


def test_a_run_without_metrics_has_no_curves(run, tmp_path):
    for path in run.rglob("metrics.jsonl"):
        path.unlink()
    parser = write(run, out=tmp_path / "report.html")
    assert any("keeps no metrics.jsonl" in text for text in parser.texts)


@pytest.mark.parametrize("missing", ["result.json", "controls/soft/evaluation.json"])
def test_an_unfinished_run_is_named_with_the_remedy(run, trained, tmp_path, missing):
    (run / missing).unlink()
    out = tmp_path / "report.html"
    with pytest.raises(FileNotFoundError, match=f"{run} is not finished .no {missing}.*--resume {run}"):
        write(trained / "seed1", run, out=out)
    assert not out.exists()


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} is not the folder of a run"):
        write(tmp_path, out=tmp_path / "report.html")


@pytest.mark.parametrize(
    ("runs", "out", "message"),
    [((), "page", "at least one"), (("a", "./a"), "page", "named twice"), (("a",), ".", "is a folder")],
)
def test_arguments_are_checked(tmp_path, runs, out, message):
    folders = tuple(tmp_path / run for run in runs)
    with pytest.raises(ValueError, match=message):
        report.Arguments(runs=folders, out=tmp_path / out)


def test_runs_of_one_name_go_by_their_paths(trained, tmp_path):
    runs = []
    for name in ("a", "b"):
        shutil.copytree(trained / "seed1", tmp_path / name / "run")
        runs.append(FinishedRun.read(tmp_path / name / "run"))
    runs.append(dataclasses.replace(runs[0], folder=trained / "seed1"))
    assert [name for name, _ in report.named(runs)] == [str(runs[0].folder), str(runs[1].folder), "seed1"]
