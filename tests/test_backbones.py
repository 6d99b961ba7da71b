"""The networks: their layers, their weights, and the weights that they refuse."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torchvision.models.googlenet import GoogLeNet

from glimpse_env.video.backbones import (
    BackboneError,
    BVLCGoogLeNet,
    DeviceError,
    WeightsError,
    load_backbone,
    local_response_norm,
    normalise_bvlc,
    normalise_imagenet,
)
from glimpse_env.video.decode import decode_clip

DATA = Path(os.environ.get("VIDEOGLIMPSE_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="VIDEOGLIMPSE_DATA does not point at the real data")


def living_torchvision_network():
    """Return torchvision's GoogLeNet with random weights and batch norms that fit their inputs, so that it is alive."""
    torch.manual_seed(0)
    network = GoogLeNet(aux_logits=True, init_weights=False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(torch.randn(2, 3, 224, 224))  # sets the running means and variances
    return network.eval()


def pictures(count):
    return torch.randint(256, (count, 224, 224, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@needs_data
@pytest.mark.parametrize(("precision", "largest"), [("bfloat16", 2e-2), ("float16", 3e-3)])
def test_lower_precision_stays_near_float32_on_real_frames(precision, largest):
    videos = sorted((DATA / "jhmdb" / "videos").glob("*/*.avi"))[::116]
    frames = [decode_clip(video, frames_per_second=30, max_frames=1).frames for video in videos]
    frames = torch.from_numpy(np.concatenate(frames))
    weights = DATA / "weights" / "bvlc_googlenet.safetensors"
    reference = load_backbone("bvlc_googlenet", weights=weights).cubes(frames).flatten(1)
    cubes = load_backbone("bvlc_googlenet", weights=weights, precision=precision).cubes(frames).flatten(1)
    assert cubes.dtype == torch.float32
    errors = (cubes - reference).norm(dim=1) / reference.norm(dim=1)
    assert errors.min() > 0
    assert errors.max() < largest


def test_local_response_norm_is_torchs():
    x = torch.rand(2, 9, 4, 4, generator=torch.Generator().manual_seed(0)) * 200
    torch.testing.assert_close(local_response_norm(x), F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0))


def test_bvlc_input_is_bgr_less_the_means():
    pictures = normalise_bvlc(torch.tensor([200, 100, 50], dtype=torch.uint8).expand(1, 4, 5, 3))
    assert pictures.shape == (1, 3, 4, 5)
    assert pictures[0, :, 3, 4].tolist() == [50 - 104, 100 - 117, 200 - 123]
    assert pictures.is_contiguous(memory_format=torch.channels_last)


def test_torchvision_input_is_normalised_and_transformed_as_in_torchvision():
    frames = pictures(1)
    means, deviations = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    rgb = frames.permute(0, 3, 1, 2) / 255
    expected = GoogLeNet(transform_input=True, init_weights=False)._transform_input((rgb - means) / deviations)
    torch.testing.assert_close(normalise_imagenet(frames), expected, rtol=1e-4, atol=1e-5)


def test_bvlc_has_the_published_number_of_parameters():
    network = BVLCGoogLeNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 6_998_552
    assert len(network.state_dict()) == 116


def test_cubes_are_channel_last_and_independent_of_the_rest_of_the_batch(weights):
    backbone = load_backbone("bvlc_googlenet", weights=weights)
    frames = pictures(4)
    cubes = backbone.cubes(frames)
    assert (cubes.shape, cubes.dtype) == ((4, 7, 7, 1024), torch.float32)
    assert cubes.min() == 0
    assert torch.equal(backbone.cubes(frames.flip(0)).flip(0), cubes)
    assert torch.equal(backbone.cubes(torch.cat([frames[:1], torch.zeros_like(frames[1:])]))[0], cubes[0])


def test_a_layer_of_the_original_network_leads_to_its_last_one(weights):
    last = load_backbone("bvlc_googlenet", weights=weights)
    backbone = load_backbone("bvlc_googlenet", layer="inception_4e", weights=weights)
    cubes = backbone.cubes(pictures(2))
    assert cubes.shape == (2, 14, 14, 832) == (2, backbone.grid_size, backbone.grid_size, backbone.depth)
    assert (backbone.layer, last.layer) == ("inception_4e", None)
    with torch.inference_mode():
        x = F.max_pool2d(cubes.permute(0, 3, 1, 2), 3, stride=2, ceil_mode=True)
        x = last.network._inception("5b", last.network._inception("5a", x))
    torch.testing.assert_close(x.permute(0, 2, 3, 1), last.cubes(pictures(2)), rtol=1e-4, atol=1e-5)
    named = load_backbone("bvlc_googlenet", layer="inception_5b", weights=weights)
    assert named.layer is None
    assert torch.equal(named.cubes(pictures(2)), last.cubes(pictures(2)))


@pytest.mark.parametrize(("layer", "size", "depth"), [("inception_3a", 28, 256), ("inception_4e", 14, 832)])
def test_a_layer_of_torchvisions_network(tmp_path, layer, size, depth):
    network = living_torchvision_network()
    torch.save(network.state_dict(), tmp_path / "googlenet.pth")
    backbone = load_backbone("googlenet", layer=layer, weights=tmp_path / "googlenet.pth")
    expected = []
    module = network.get_submodule(layer.replace("_", ""))
    module.register_forward_hook(lambda module, inputs, output: expected.append(output))
    with torch.inference_mode():
        network(normalise_imagenet(pictures(2)))
    cubes = backbone.cubes(pictures(2))
    assert cubes.shape == (2, size, size, depth)
    torch.testing.assert_close(cubes.permute(0, 3, 1, 2), expected[0], rtol=1e-3, atol=1e-3)


def test_an_unknown_layer(weights):
    with pytest.raises(BackboneError, match="bvlc_googlenet has no layer '4e': choose one of inception_3a, "):
        load_backbone("bvlc_googlenet", layer="4e", weights=weights)


def test_the_folded_trunk_equals_torchvisions(tmp_path):
    network = living_torchvision_network()
    torch.save(network.state_dict(), tmp_path / "googlenet.pth")
    backbone = load_backbone("googlenet", weights=tmp_path / "googlenet.pth")
    expected = []
    network.inception5b.register_forward_hook(lambda module, inputs, output: expected.append(output))
    frames = pictures(2)
    with torch.inference_mode():
        network(normalise_imagenet(frames))
    torch.testing.assert_close(backbone.cubes(frames).permute(0, 3, 1, 2), expected[0], rtol=1e-3, atol=1e-3)
    assert backbone.name == "googlenet"


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("bvlc_googlenet", BVLCGoogLeNet),
        ("googlenet", lambda: GoogLeNet(aux_logits=True, init_weights=True)),
        ("googlenet", lambda: GoogLeNet(aux_logits=False, init_weights=False)),
    ],
)
def test_untrained_weights_are_refused(tmp_path, name, build):
    torch.manual_seed(0)
    torch.save(build().state_dict(), tmp_path / "random.pth")
    with pytest.raises(
        WeightsError, match=r"random\.pth: the largest activation .* is \d\.\de-\d+, as with random weights"
    ):
        load_backbone(name, weights=tmp_path / "random.pth")


def test_weights_that_are_not_numbers_are_refused(tmp_path, weights):
    tensors = load_file(weights)
    tensors["conv1/7x7_s2.weight"][0, 0, 0, 0] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match=r"nan\.safetensors: the largest activation for a test picture is nan"):
        load_backbone("bvlc_googlenet", weights=tmp_path / "nan.safetensors")


def test_weights_of_the_other_network_are_refused(tmp_path, weights):
    with pytest.raises(
        WeightsError, match=r"bvlc\.safetensors does not fit googlenet: Missing key.* \[\.\.\.\] Give .* --backbone"
    ):
        load_backbone("googlenet", weights=weights)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tensors: tensors.pop("conv2/3x3.bias"), r'Missing key.*: "conv2/3x3.bias"\.'),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), r'Unexpected key.*: "extra"\.'),
        (
            lambda tensors: tensors.update({"inception_3a/5x5.weight": torch.zeros(32, 16, 3, 3)}),
            r"size mismatch for inception_3a/5x5\.weight: .*\[32, 16, 3, 3\].*\[32, 16, 5, 5\]",
        ),
    ],
)
def test_weights_that_almost_fit_are_refused(tmp_path, weights, change, problem):
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, tmp_path / "changed.safetensors")
    with pytest.raises(WeightsError, match=rf"does not fit bvlc_googlenet: {problem}"):
        load_backbone("bvlc_googlenet", weights=tmp_path / "changed.safetensors")


@pytest.mark.parametrize("name", ["text.safetensors", "text.pth"])
def test_files_that_are_no_weights_are_refused(tmp_path, name):
    (tmp_path / name).write_text("# Weights\n" * 100)
    with pytest.raises(WeightsError, match=rf"{name} cannot be read as weights") as refused:
        load_backbone("bvlc_googlenet", weights=tmp_path / name)
    assert "weights_only" not in str(refused.value)  # torch's own text says how to unpickle the file


def test_weights_without_permission_are_named(monkeypatch, weights):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # no permission is missing for root
    with pytest.raises(WeightsError, match=r"bvlc\.safetensors cannot be read as weights .*Permission denied"):
        load_backbone("bvlc_googlenet", weights=weights)


def test_pickled_objects_are_refused(tmp_path):
    torch.save({"model": GoogLeNet}, tmp_path / "object.pth")
    with pytest.raises(WeightsError, match=r"object\.pth cannot be read as weights"):
        load_backbone("googlenet", weights=tmp_path / "object.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"list\.pth holds no dictionary of tensors"):
        load_backbone("googlenet", weights=tmp_path / "list.pth")


def test_weights_that_are_missing(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights file at .*none\.pth$"):
        load_backbone("googlenet", weights=tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="bvlc_googlenet needs a weights file: pass --weights"):
        load_backbone("bvlc_googlenet")


def test_torchvisions_weights_are_downloaded_once_and_checked(tmp_path, monkeypatch):
    (tmp_path / "server").mkdir()
    tensors = {"conv1.conv.weight": torch.zeros(1)}
    torch.save(tensors, tmp_path / "weights.pth")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    served = (tmp_path / "weights.pth").rename(tmp_path / "server" / f"googlenet-{digest[:8]}.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("glimpse_env.video.backbones._TORCHVISION_WEIGHTS", served.as_uri())
    for _ in range(2):  # the second time from the cache, since the server has it no more
        with pytest.raises(WeightsError, match=rf"home/hub/checkpoints/{served.name} does not fit googlenet"):
            load_backbone("googlenet")
        served.unlink(missing_ok=True)
    (tmp_path / "home" / "hub" / "checkpoints" / served.name).unlink()
    for content, reason in ((None, "No such file"), (b"other", "invalid hash value")):
        if content is not None:
            served.write_bytes(content)
        message = rf"{served.name} cannot be downloaded to .*{reason}.*: .* --weights {served.name}$"
        with pytest.raises(WeightsError, match=message):
            load_backbone("googlenet")
    assert not list((tmp_path / "home").rglob("*.pth*"))


def test_an_unknown_backbone(weights):
    with pytest.raises(ValueError, match=r"unknown backbone 'resnet': choose one of .*, timm:NAME"):
        load_backbone("resnet", weights=weights)


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there(weights, device):
    with pytest.raises(DeviceError, match=rf"device '{device}' is not available here \(.*\): choose cpu"):
        load_backbone("bvlc_googlenet", weights=weights, device=device)


@needs_data
def test_the_published_weights_fit_and_are_alive():
    backbone = load_backbone("bvlc_googlenet", weights=DATA / "weights" / "bvlc_googlenet.safetensors")
    assert 1 < backbone.cubes(pictures(1)).max() < 1000
