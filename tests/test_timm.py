"""Networks of timm: their activations are those that timm computes, and they pass through every part of the package."""

import sys

import numpy as np
import pytest
import torch
from agent_toys import tiny_config
from extraction_inputs import write_video
from safetensors.torch import save_file

from glimpse_env import open_source
from glimpse_env.extract import Folder, extract
from glimpse_env.extract.__main__ import main
from glimpse_env.store import FeatureStore
from glimpse_env.video.backbones import BackboneError, WeightsError, load_backbone
from glimpse_env.video.decode import decode_clip

timm = pytest.importorskip("timm")

SIZES = {"test_vit": 10, "test_resnet": 5, "test_efficientnet": 5, "test_mambaout": 5}  # grids of 160 x 160 pictures


def model_of(kind):
    """Return a model whose biases, scales and running means are as if it had been trained a little."""
    torch.manual_seed(0)
    model = timm.create_model(kind)
    for name, value in model.state_dict().items():
        if value.ndim == 1 and value.is_floating_point():
            value.add_(0.1 * torch.rand_like(value), alpha=1 if name.endswith("running_var") else 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that returns the file of a model's weights."""
    folder = tmp_path_factory.mktemp("timm")

    def path_of(kind):
        path = folder / f"{kind}.safetensors"
        if not path.exists():
            save_file(model_of(kind).state_dict(), path)
        return path

    return path_of


def pictures(side):
    return torch.randint(256, (2, side, side, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def normalised(model, frames):
    """Return frames as timm's own transform gives them to a model."""
    config = timm.data.resolve_model_data_config(model)
    means, deviations = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    return (frames.permute(0, 3, 1, 2) / 255 - means) / deviations


@pytest.mark.parametrize("kind", SIZES)
def test_cubes_are_the_features_of_timm(saved, kind):
    backbone, model, size = load_backbone(f"timm:{kind}", weights=saved(kind)), model_of(kind), SIZES[kind]
    with torch.inference_mode():
        features = model.forward_features(normalised(model, pictures(160)))
    if kind == "test_vit":  # the first token is the class, the others are patches in rows
        features = features[:, 1:].unflatten(1, (size, size))
    elif kind != "test_mambaout":  # which has its channels last
        features = features.permute(0, 2, 3, 1)
    cubes = backbone.cubes(pictures(160))
    assert cubes.shape == (2, size, size, backbone.depth) == (2, backbone.grid_size, size, features.shape[3])
    assert backbone.rule.size == 160
    assert backbone.rule.interpolation == timm.data.resolve_model_data_config(model)["interpolation"]
    torch.testing.assert_close(cubes, features, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("kind", "layer"), [("test_vit", "blocks.1"), ("test_resnet", "layer3")])
def test_a_layer_is_the_output_of_that_module(saved, kind, layer):
    model, seen = model_of(kind), []
    model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        model(normalised(model, pictures(160)))
    (expected,) = seen
    expected = expected[:, 1:].unflatten(1, (10, 10)) if kind == "test_vit" else expected.permute(0, 2, 3, 1)
    backbone = load_backbone(f"timm:{kind}", layer=layer, weights=saved(kind))
    torch.testing.assert_close(backbone.cubes(pictures(160)), expected, rtol=1e-3, atol=1e-4)
    assert (backbone.grid_size, backbone.depth) == (10, expected.shape[3])


def test_a_classifier_of_other_classes_is_left_out(saved, tmp_path):
    state = model_of("test_resnet").state_dict()
    save_file(state | {"fc.weight": torch.ones(7, 256), "fc.bias": torch.ones(7)}, tmp_path / "seven.safetensors")
    ours, theirs = (
        load_backbone("timm:test_resnet", weights=path)
        for path in (tmp_path / "seven.safetensors", saved("test_resnet"))
    )
    assert torch.equal(ours.cubes(pictures(160)), theirs.cubes(pictures(160)))
    assert ours.weights_sha256 != theirs.weights_sha256


@pytest.mark.parametrize("kind", ["test_vit", "test_resnet"])
def test_untrained_weights_are_refused(tmp_path, kind):
    torch.save(timm.create_model(kind).state_dict(), tmp_path / "random.pth")
    with pytest.raises(WeightsError, match=r"random\.pth: all biases and scales are as they are before training"):
        load_backbone(f"timm:{kind}", weights=tmp_path / "random.pth")


def test_wrong_names_and_weights(saved, tmp_path, monkeypatch):
    def refused(name, message, kind=BackboneError, **arguments):
        with pytest.raises(kind, match=message):
            load_backbone(f"timm:{name}", **arguments)

    vit, resnet = saved("test_vit"), saved("test_resnet")
    refused(
        "test_vit", "does not fit timm:test_vit: Missing key.*choose another --backbone", WeightsError, weights=resnet
    )
    refused("test_vit", "no weights file at .*none", WeightsError, weights=tmp_path / "none")
    (tmp_path / "text.pth").write_text("hello")
    refused("test_vit", r"text\.pth cannot be read as weights", WeightsError, weights=tmp_path / "text.pth")
    torch.save({"model": SyntaxWarning}, tmp_path / "object.pth")
    refused("test_vit", r"object\.pth cannot be read as weights", WeightsError, weights=tmp_path / "object.pth")
    refused("test_coatnet", r"no trained weights of test_coatnet here \(.*\): pass --weights FILE", WeightsError)
    refused("test_vip", r"timm .* has no model 'test_vip': choose one of timm\.list_models\(\)")
    refused("test_vit", "has no layer 'x': choose one of blocks.0, blocks.1, ", weights=vit, layer="x")
    refused(
        "test_resnet", "makes cubes of 40 x 40 cells, not of K x K with K from 1 to 32", weights=resnet, layer="layer1"
    )
    monkeypatch.setitem(sys.modules, "timm", None)
    refused("test_vit", r'timm:test_vit needs timm: pip install "videoglimpse\[timm\]"', weights=vit)


def test_errors_of_the_command_line_are_one_line(saved, tmp_path, monkeypatch, capsys):
    videos = tmp_path / "videos" / "run"
    videos.mkdir(parents=True)
    write_video(videos / "a.mp4", frames=3)
    words = ["extract", "folder", "--videos", str(videos.parent), "--out", str(tmp_path / "store")]
    words += ["--weights", str(saved("test_vit")), "--backbone", "timm:test_vit"]
    monkeypatch.setattr(sys, "argv", [*words, "--layer", "x"])
    with pytest.raises(SystemExit, match="error: timm:test_vit has no layer 'x'"):
        main()
    monkeypatch.setattr(sys, "argv", [*words, "--crop", "64"])
    with pytest.raises(SystemExit):
        main()
    assert "crops need a GoogLeNet, got backbone timm:test_vit" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "store").exists()


def test_signed_patch_tokens_pass_through_every_part(saved, tmp_path, capsys):
    from glimpse_agents import load, report
    from glimpse_agents.reinforce import train

    root = tmp_path / "videos"
    for number in range(6):
        path = root / ("run" if number % 2 else "walk") / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames=6 + number)
    weights = saved("vit_tiny_patch16_224")
    settings = Folder(
        videos=root, out=tmp_path / "store", backbone="timm:vit_tiny_patch16_224", layer="blocks.1", weights=weights,
        frames=3, fps=15.0, batch_size=4, threads=1,
    )  # fmt: skip
    store = FeatureStore.open(extract(settings), verify="read")
    manifest, source = store.manifest, store.split("train")
    assert (manifest.backbone, manifest.layer) == ("timm:vit_tiny_patch16_224", "blocks.1")
    assert (manifest.grid_size, manifest.depth, manifest.resize_rule) == (14, 192, "direct-bicubic-224")
    assert manifest.min_feature < -1 < 1 < manifest.max_feature
    assert f"timm {timm.__version__}" in manifest.software

    backbone = load_backbone(manifest.backbone, layer=manifest.layer, weights=weights)
    decoded = decode_clip(root / source.clip_id(0), frames_per_second=15.0, max_frames=3, rule=backbone.rule)
    expected = backbone.cubes(torch.from_numpy(decoded.frames)).numpy()
    lazy = open_source(f"lazy:{store.path}", split="train")
    for opened in (source, lazy):
        cubes = np.empty((3, 14, 14, 192), np.float32)
        opened.read_cubes(np.zeros(3, np.int64), np.arange(3), cubes)
        np.testing.assert_allclose(cubes, expected, rtol=2e-3, atol=2e-3)
        assert (opened.min_feature, opened.max_feature) == (manifest.min_feature, manifest.max_feature)

    config = tiny_config(source=str(store.path), updates=3, warmup_share=0.0, observation="cube")
    train(config, tmp_path / "run")
    prediction = load(tmp_path / "run").predict(root / "run" / "1.mp4")
    assert prediction.scores.sum() == pytest.approx(1)
    report.main(report.parse_arguments([str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]))
    assert (tmp_path / "page.html").read_text().count("data:video/mp4") > 0
    assert "left out" not in capsys.readouterr().err
