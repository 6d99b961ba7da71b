"""The convolutional networks whose last activations are the feature cubes: GoogLeNet, twice.

`bvlc_googlenet` is the original network (Szegedy et al., "Going deeper with convolutions", CVPR 2015) with true 5 x 5
branches and local response normalisation, in the weights that the Berkeley Vision and Learning Center trained.
`googlenet` is torchvision's: batch normalisation, and 3 x 3 convolutions where the paper has 5 x 5, so the weights of
one do not fit the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glimpse_env.files import file_sha256

BackboneName = Literal["bvlc_googlenet", "googlenet"]
Precision = Literal["float32", "bfloat16", "float16"]
_TORCHVISION_FILE = "googlenet-1378be20.pth"
_LEAST_ACTIVATION = 0.3  # trained networks reach 10 and more; random weights at most 0.06, torchvision's own 1e-11


class WeightsError(ValueError):
    """A weights file is missing, cannot be read, belongs to another network or was never trained."""


class DeviceError(RuntimeError):
    """The processor asked for is not there."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A loaded network and what a store records of it.

    Attributes:
        name: which network.
        weights_sha256: of the weights file.
        device: where it runs.
        precision: of its convolutions; below float32 torch's autocast chooses, and leaves what needs more at float32.
        network: normalised pictures (N, 3, 224, 224) float32 to activations (N, D, K, K).
        normalise: RGB frames (N, 224, 224, 3) uint8 to those pictures.
        grid_size: K.
        depth: D.
    """

    name: BackboneName
    weights_sha256: str
    device: torch.device
    network: Callable[[Tensor], Tensor]
    normalise: Callable[[Tensor], Tensor]
    precision: Precision = "float32"
    grid_size: int = 7
    depth: int = 1024

    def cubes(self, frames: Tensor) -> Tensor:
        """Return the feature cubes (N, K, K, D) float32 of (N, 224, 224, 3) uint8 RGB frames.

        The network is fully convolutional: crops of 32 k pixels a side give cubes of k cells a side.
        """
        with torch.inference_mode(), self._arithmetic():
            pictures = self.normalise(frames.to(self.device, non_blocking=True))
            activations = self.network(pictures).float()
            return activations.permute(0, 2, 3, 1)  # (N, D, K, K) -> (N, K, K, D)

    def slices(self, crops: Tensor) -> Tensor:
        """Return (N, D) float32, the mean over all places of what the network makes of (N, side, side, 3) crops."""
        return self.cubes(crops).mean((1, 2))

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        lowered = self.precision != "float32"
        with (
            torch.autocast(
                self.device.type, dtype=getattr(torch, self.precision) if lowered else None, enabled=lowered
            ),
            # By default cuDNN rounds float32 to TF32, and may choose other algorithms at every run.
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            yield


def load_backbone(
    name: str,
    *,
    weights: Path | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
    compiled: bool = False,
) -> Backbone:
    """Load a network with trained weights, ready to run.

    Args:
        name: `bvlc_googlenet` or `googlenet`.
        weights: safetensors file, for `googlenet` also torchvision's own `.pth`; without it `googlenet` takes the
            file that torchvision has downloaded to torch's cache.
        device: `cpu`, `cuda` or `cuda:<number>`.
        precision: of the convolutions.
        compiled: run it through `torch.compile`, which needs a C++ compiler and half a minute at its first batch.

    Raises:
        ValueError: there is no such network.
        DeviceError: the device is not there.
        WeightsError: the weights are missing, do not fit the network or were never trained.
    """
    if name not in get_args(BackboneName):
        raise ValueError(f"unknown backbone {name!r}: choose one of {', '.join(get_args(BackboneName))}")
    target = _find_device(device)
    path = _find_weights(name, weights)
    tensors = _read_tensors(path)
    if name == "bvlc_googlenet":
        network: nn.Module = BVLCGoogLeNet()
        _load_exactly(network, tensors, path=path, name=name)
        normalise = normalise_bvlc
    else:
        network = _torchvision_trunk(tensors, path)
        normalise = normalise_imagenet
    network = network.eval().requires_grad_(False).to(target).to(memory_format=torch.channels_last)
    backbone = Backbone(
        name="bvlc_googlenet" if name == "bvlc_googlenet" else "googlenet",
        weights_sha256=file_sha256(path),
        device=target,
        network=network,
        normalise=normalise,
        precision=precision,
    )
    _refuse_untrained(backbone, path)
    return replace(backbone, network=torch.compile(network)) if compiled else backbone


def normalise_bvlc(frames: Tensor) -> Tensor:
    """Turn RGB into BGR less the training set's mean colour, as Caffe's models expect.

    Args:
        frames: (N, height, width, 3) uint8 RGB.

    Returns:
        (N, 3, height, width) float32, channels last in memory.
    """
    means = torch.tensor([104.0, 117.0, 123.0], device=frames.device)
    return frames.flip(3).float().sub_(means).permute(0, 3, 1, 2)


def normalise_imagenet(frames: Tensor) -> Tensor:
    """Scale RGB to -1..1, which torchvision's GoogLeNet was trained with.

    torchvision normalises with ImageNet's means and deviations and then undoes that (`transform_input=True`), since the
    weights came from TensorFlow. Both steps are one here; shapes as in `normalise_bvlc`.
    """
    return frames.float().div_(127.5).sub_(1).permute(0, 3, 1, 2)


# Channels of each inception module (table 1 of the paper): input, 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool.
_INCEPTIONS = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


class BVLCGoogLeNet(nn.ModuleDict):
    """The original GoogLeNet up to its classifier; the layers are called as in BVLC's Caffe model.

    Takes (N, 3, 224, 224) float32, BGR 0..255 minus the means; gives (N, 1024, 7, 7), the output of inception 5b.
    """

    def __init__(self) -> None:
        super().__init__()
        self["conv1/7x7_s2"] = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self["conv2/3x3_reduce"] = nn.Conv2d(64, 64, 1)
        self["conv2/3x3"] = nn.Conv2d(64, 192, 3, padding=1)
        for name, (inputs, one, three_reduce, three, five_reduce, five, pool) in _INCEPTIONS.items():
            self[f"inception_{name}/1x1"] = nn.Conv2d(inputs, one, 1)
            self[f"inception_{name}/3x3_reduce"] = nn.Conv2d(inputs, three_reduce, 1)
            self[f"inception_{name}/3x3"] = nn.Conv2d(three_reduce, three, 3, padding=1)
            self[f"inception_{name}/5x5_reduce"] = nn.Conv2d(inputs, five_reduce, 1)
            self[f"inception_{name}/5x5"] = nn.Conv2d(five_reduce, five, 5, padding=2)
            self[f"inception_{name}/pool_proj"] = nn.Conv2d(inputs, pool, 1)
        self["loss3/classifier"] = nn.Linear(1024, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = local_response_norm(_pool(self._rectified("conv1/7x7_s2", x)))  # (N, 64, 56, 56)
        x = self._rectified("conv2/3x3", self._rectified("conv2/3x3_reduce", x))
        x = _pool(local_response_norm(x))  # (N, 192, 28, 28)
        for name in _INCEPTIONS:
            x = self._inception(name, _pool(x) if name in ("4a", "5a") else x)
        return x  # (N, 1024, 7, 7)

    def classify(self, activations: Tensor) -> Tensor:
        """Return ImageNet logits (N, 1000) of (N, 1024, 7, 7) activations."""
        logits: Tensor = self["loss3/classifier"](activations.mean((2, 3)))
        return logits

    def _rectified(self, name: str, x: Tensor) -> Tensor:
        return F.relu_(self[name](x))

    def _inception(self, name: str, x: Tensor) -> Tensor:
        def layer(kind: str, inputs: Tensor) -> Tensor:
            return self._rectified(f"inception_{name}/{kind}", inputs)

        branches = [
            layer("1x1", x),
            layer("3x3", layer("3x3_reduce", x)),
            layer("5x5", layer("5x5_reduce", x)),
            layer("pool_proj", F.max_pool2d(x, 3, stride=1, padding=1)),
        ]
        return torch.cat(branches, dim=1)


def _pool(x: Tensor) -> Tensor:
    # Caffe rounds the size of a pooled map up.
    return F.max_pool2d(x, 3, stride=2, ceil_mode=True)


def local_response_norm(x: Tensor) -> Tensor:
    """Divide by (1 + 1e-4 / 5 * the sum of squares over 5 neighbouring channels) ** 0.75; (N, channels, H, W).

    The same as `F.local_response_norm(x, 5)`, three times as fast: the sum is a banded 1 x 1 convolution.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()  # squares overflow float16, and bfloat16 would lose more here than in all convolutions
        index = torch.arange(x.shape[1], device=x.device)
        band = ((index[:, None] - index).abs() <= 2).to(x.dtype) * (1e-4 / 5)
        scale = F.conv2d(x * x, band[:, :, None, None], torch.ones_like(band[0])).rsqrt_()
        return x * scale.mul_(scale.sqrt())  # s ** -0.75 = s ** -0.5 * s ** -0.25


def _find_device(device: str) -> torch.device:
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by how it was built
        reason = str(error).splitlines()[0]
        raise DeviceError(f"device {device!r} is not available here ({reason}): choose cpu") from error
    return target


def _find_weights(name: str, weights: Path | None) -> Path:
    if weights is None and name == "bvlc_googlenet":
        raise WeightsError("bvlc_googlenet needs a weights file: pass --weights bvlc_googlenet.safetensors")
    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / _TORCHVISION_FILE
    if not path.is_file():
        raise WeightsError(
            f"no weights file at {path}"
            + ("" if weights else f": download https://download.pytorch.org/models/{_TORCHVISION_FILE} to it")
        )
    return path


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb"):  # readers of weights call a file without permission missing
            pass
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise several types of their own
        raise WeightsError(f"{path} cannot be read as weights (.safetensors or .pth): {error}") from error
    if not (isinstance(tensors, dict) and all(isinstance(value, Tensor) for value in tensors.values())):
        raise WeightsError(f"{path} holds no dictionary of tensors: save the network's state_dict")
    return tensors


def _load_exactly(network: nn.Module, tensors: Mapping[str, Tensor], *, path: Path, name: str) -> None:
    """Copy tensors into a network whose names and shapes they match exactly."""
    expected = network.state_dict()
    problems = [f"{key} is missing" for key in expected.keys() - tensors.keys()]
    problems += [f"{key} is unexpected" for key in tensors.keys() - expected.keys()]
    problems += [
        f"{key} has shape {tuple(tensors[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected.keys() & tensors.keys()
        if tensors[key].shape != expected[key].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:4])
        raise WeightsError(
            f"{path} does not fit {name}: {len(problems)} tensors differ ({shown}). "
            f"Give the weights of {name} itself or choose the other --backbone"
        )
    network.load_state_dict(dict(tensors))


def _torchvision_trunk(tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Build torchvision's network up to inception 5b, batch normalisation folded into the convolutions."""
    from torchvision.models.googlenet import BasicConv2d, GoogLeNet

    network = GoogLeNet(aux_logits=False, init_weights=False)
    counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
    kept = {key: value for key, value in tensors.items() if not key.startswith(("aux1.", "aux2."))}
    _load_exactly(network, {**counters, **kept}, path=path, name="googlenet")
    network.eval()
    for module in network.modules():
        if isinstance(module, BasicConv2d):
            module.conv = nn.utils.fusion.fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    children = list(network.named_children())
    last = [name for name, _ in children].index("inception5b")
    return nn.Sequential(*(module for _, module in children[: last + 1]))


def _refuse_untrained(backbone: Backbone, path: Path) -> None:
    steps = torch.arange(224, dtype=torch.float32)
    waves = torch.stack([torch.sin(steps[:, None] / k) * torch.cos(steps / (k + 2)) for k in (3, 7, 19)], dim=-1)
    largest = float(backbone.cubes(((waves + 1) * 127.5).to(torch.uint8)[None]).max())
    if not _LEAST_ACTIVATION <= largest < float("inf"):
        raise WeightsError(
            f"{path}: the largest activation for a test picture is {largest:.1e}, as with random weights; "
            f"give trained weights of {backbone.name}"
        )
