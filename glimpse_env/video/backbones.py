"""Networks whose activations are the feature cubes: two versions of GoogLeNet, and the models of timm.

`bvlc_googlenet` is the original network (Szegedy et al., "Going deeper with convolutions", CVPR 2015) with true 5 x 5
branches and local response normalisation, and weights of the Berkeley Vision and Learning Center. `googlenet` is
torchvision's, with batch normalisation and 3 x 3 instead of 5 x 5 convolutions. Weights of one do not fit the other.
Models of timm are loaded by `timm_models`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import pickle
import sys
import textwrap
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glimpse_env.files import file_sha256
from glimpse_env.sources.protocol import LARGEST_GRID
from glimpse_env.terminal import shows_bars
from glimpse_env.video.decode import USUAL, ResizeRule

GOOGLENETS = ("bvlc_googlenet", "googlenet")
TIMM = "timm:"
Precision = Literal["float32", "bfloat16", "float16"]
_TORCHVISION_WEIGHTS = "https://download.pytorch.org/models/googlenet-1378be20.pth"
CAFFEMODEL = "http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel"
_CONVERT = f"python -m glimpse_env.weights convert CAFFEMODEL FILE.safetensors makes one of {CAFFEMODEL}"
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h
_LEAST_ACTIVATION = 0.3  # trained networks reach 10 and more; random weights at most 0.06, torchvision's own 1e-11


class BackboneError(ValueError):
    """There is no such network or layer, or it makes no cubes."""


class WeightsError(BackboneError):
    """A weights file is missing, cannot be read, belongs to another network or was never trained."""


class DeviceError(RuntimeError):
    """The device does not exist here."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A loaded network.

    Attributes:
        network: normalised pictures (N, 3, side, side) float32 to activations (N, D, K, K).
        normalise: RGB frames (N, side, side, 3) uint8 to those pictures.
        layer: the one whose activations they are; None for the last.
        rule: how frames become pictures of that side.
        precision: of the convolutions, by torch's autocast.
        grid_size: K.
        depth: D.
    """

    name: str
    weights_sha256: str
    device: torch.device
    network: Callable[[Tensor], Tensor]
    normalise: Callable[[Tensor], Tensor]
    layer: str | None = None
    rule: ResizeRule = USUAL
    precision: Precision = "float32"
    grid_size: int = 7
    depth: int = 1024

    def cubes(self, frames: Tensor) -> Tensor:
        """Return the feature cubes (N, K, K, D) float32 of (N, side, side, 3) uint8 RGB frames.

        A GoogLeNet is fully convolutional: crops of 32 k pixels a side give last cubes of k cells a side.
        """
        with torch.inference_mode(), self._arithmetic():
            pictures = self.normalise(frames.to(self.device, non_blocking=True))
            activations = self.network(pictures).float()
            return activations.permute(0, 2, 3, 1)  # (N, D, K, K) -> (N, K, K, D)

    def slices(self, crops: Tensor) -> Tensor:
        """Return (N, D) float32: the mean over the cells of each cube of (N, side, side, 3) crops."""
        return self.cubes(crops).mean((1, 2))

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        dtype = None if self.precision == "float32" else getattr(torch, self.precision)
        with (
            torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None),
            # By default cuDNN rounds float32 to TF32, and may choose other algorithms in every run.
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            yield


def load_backbone(
    name: str,
    *,
    layer: str | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
    compiled: bool = False,
) -> Backbone:
    """Load a network with trained weights.

    Args:
        name: `bvlc_googlenet`, `googlenet` or `timm:NAME`.
        layer: the one whose activations are wanted, such as `inception_4e`; None for the last.
        weights: .safetensors or .pth file; by default those of torchvision for `googlenet`, and of timm for its
            models, each downloaded and kept in its own way.
        device: `cpu`, `cuda` or `cuda:<number>`.
        precision: of the convolutions.
        compiled: use `torch.compile`, which needs a C++ compiler and half a minute for its first batch.

    Raises:
        BackboneError: there is no such network or layer, or it makes no cubes of 1 to 32 cells a side.
        DeviceError: there is no such device.
        WeightsError: the weights are missing, do not fit the network or were never trained.
    """
    check_layer(name, layer)
    target = _find_device(device)
    load = _load_timm if name.startswith(TIMM) else _load_googlenet
    backbone = replace(load(name, layer, weights, target), precision=precision)
    shape = tuple(backbone.cubes(_test_picture(backbone.rule.size)).shape)
    if shape[1] != shape[2] or not 1 <= shape[1] <= LARGEST_GRID:
        raise BackboneError(
            f"{name} makes cubes of {shape[1]} x {shape[2]} cells, not of K x K with K from 1 to {LARGEST_GRID}: "
            "choose another --layer or --backbone"
        )
    backbone = replace(backbone, grid_size=shape[1], depth=shape[3])
    return replace(backbone, network=torch.compile(backbone.network)) if compiled else backbone


def check_layer(name: str, layer: str | None) -> None:
    """Raise a BackboneError if there is no such network, or it is a GoogLeNet without such a layer."""
    if name.startswith(TIMM):
        return  # only timm knows
    if name not in GOOGLENETS:
        raise BackboneError(f"unknown backbone {name!r}: choose one of {', '.join(GOOGLENETS)}, {TIMM}NAME")
    layers = [f"inception_{module}" for module in _INCEPTIONS]
    if layer is not None and layer not in layers:
        raise BackboneError(f"{name} has no layer {layer!r}: choose one of {', '.join(layers)}")


def _load_googlenet(name: str, layer: str | None, weights: Path | None, device: torch.device) -> Backbone:
    path, is_bvlc = _find_weights(name, weights), name == "bvlc_googlenet"
    trunk = (_bvlc_trunk if is_bvlc else _torchvision_trunk)(_read_tensors(path), path)
    trunk = trunk.requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    backbone = Backbone(
        name=name,
        weights_sha256=file_sha256(path),
        device=device,
        network=trunk,
        normalise=normalise_bvlc if is_bvlc else normalise_imagenet,
    )
    _refuse_untrained(backbone, path)  # by the last layer
    if layer is None or layer == "inception_5b":
        return backbone
    if isinstance(trunk, BVLCGoogLeNet):
        trunk.last = layer.removeprefix("inception_")
    elif isinstance(trunk, nn.Sequential):
        names = [child for child, _ in trunk.named_children()]
        trunk = trunk[: names.index(layer.replace("_", "")) + 1]
    return replace(backbone, network=trunk, layer=layer)


def _load_timm(name: str, layer: str | None, weights: Path | None, device: torch.device) -> Backbone:
    from glimpse_env.video.timm_models import load_timm

    if weights is not None and not weights.is_file():
        raise WeightsError(f"no weights file at {weights}")
    found = load_timm(name, layer=layer, weights=weights)
    return Backbone(
        name=name,
        weights_sha256=found.weights_sha256,
        device=device,
        network=found.trunk.requires_grad_(False).to(device).to(memory_format=torch.channels_last),
        normalise=functools.partial(normalise_colours, mean=found.mean, deviation=found.deviation),
        layer=layer,
        rule=found.rule,
    )


def normalise_colours(frames: Tensor, *, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """Scale RGB to 0..1, and standardise each channel; shapes as in `normalise_bvlc`."""
    means, deviations = torch.tensor([mean, deviation], device=frames.device) * 255
    return frames.float().sub_(means).div_(deviations).permute(0, 3, 1, 2)


def normalise_bvlc(frames: Tensor) -> Tensor:
    """Turn (N, height, width, 3) uint8 RGB into (N, 3, height, width) float32 BGR minus Caffe's mean colour."""
    means = torch.tensor([104.0, 117.0, 123.0], device=frames.device)
    return frames.flip(3).float().sub_(means).permute(0, 3, 1, 2)


def normalise_imagenet(frames: Tensor) -> Tensor:
    """Scale RGB to -1..1; shapes as in `normalise_bvlc`.

    torchvision's GoogLeNet normalises by ImageNet's means and standard deviations and undoes that
    (`transform_input=True`).
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
    """The original GoogLeNet, with BVLC's names of layers: (N, 3, 224, 224) float32 to (N, 1024, 7, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.last = "5b"  # the inception module whose output is wanted
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
            if name == self.last:
                break
        return x

    def _rectified(self, name: str, x: Tensor) -> Tensor:
        return F.relu_(self[name](x))

    def _inception(self, name: str, x: Tensor) -> Tensor:
        def layer(kind: str, inputs: Tensor) -> Tensor:
            return self._rectified(f"inception_{name}/{kind}", inputs)

        threes, fives = layer("3x3", layer("3x3_reduce", x)), layer("5x5", layer("5x5_reduce", x))
        pooled = layer("pool_proj", F.max_pool2d(x, 3, stride=1, padding=1))
        return torch.cat([layer("1x1", x), threes, fives, pooled], dim=1)


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2, ceil_mode=True)  # Caffe rounds sizes up


def local_response_norm(x: Tensor) -> Tensor:
    """Compute `F.local_response_norm(x, 5)` three times as fast: the sum of squares is a banded 1 x 1 convolution."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()  # squares overflow float16, and bfloat16 would lose more than in all convolutions
        index = torch.arange(x.shape[1], device=x.device)
        band = ((index[:, None] - index).abs() <= 2).to(x.dtype) * (1e-4 / 5)
        scale = F.conv2d(x * x, band[:, :, None, None], torch.ones_like(band[0])).rsqrt_()
        return x * scale.mul_(scale.sqrt())  # s ** -0.75 = s ** -0.5 * s ** -0.25


def parse_device(name: str) -> torch.device:
    """Return the device of that name.

    Raises:
        ValueError: torch knows no such device.
    """
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be cpu, cuda or cuda:<number>, got {name!r}") from error


def num_threads() -> int:
    """Return the number of threads that torch uses on the CPU."""
    return torch.get_num_threads()


def prepare_process(*, threads: int) -> None:
    """Set the number of threads, and keep freed memory for the next batch."""
    torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Keep the memory of freed arrays for the next ones, and return whether this system can.

    glibc gives arrays of more than 32 MB back to the system, and touches every page of the next one again. Networks
    free such arrays after every layer: on the CPU that cost GoogLeNet a fifth to a third of its speed.

    Source: mallopt(3).
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


def software(name: str, *, compiled: bool) -> str:
    """Return the versions that decide the last bits of a network's output."""
    timm = f", timm {importlib.metadata.version('timm')}" if name.startswith(TIMM) else ""
    return f"torch {torch.__version__}{timm}{', compiled' * compiled}"


def _find_device(device: str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # depends on torch's build
        reason = str(error).splitlines()[0]
        raise DeviceError(f"device {device!r} is not available here ({reason}): choose cpu") from error


def _find_weights(name: str, weights: Path | None) -> Path:
    if weights is None and name == "bvlc_googlenet":
        raise WeightsError(f"bvlc_googlenet needs a weights file: pass --weights FILE.safetensors; {_CONVERT}")
    path = weights or _downloaded(_TORCHVISION_WEIGHTS)
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}" + (f": {_CONVERT}" if name == "bvlc_googlenet" else ""))
    if path.suffix == ".caffemodel":
        raise WeightsError(
            f"{path} is Caffe's format: python -m glimpse_env.weights convert {quote(str(path))} FILE.safetensors"
        )
    return path


def _downloaded(url: str) -> Path:
    """Return the file in torch.hub's cache, downloaded if it is missing; its name ends in the start of its sha256."""
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), path.stem.rpartition("-")[2], progress=shows_bars())
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"{url} cannot be downloaded to {path.parent} ({error}): download it in another way, and pass "
                f"--weights {path.name}"
            ) from error
    return path


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        path.open("rb").close()  # safetensors reports a file without permission as missing
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of several types
        # torch's own text says how to unpickle the file.
        reason = type(error).__name__ if isinstance(error, pickle.UnpicklingError) else error
        raise WeightsError(f"{path} cannot be read as weights (.safetensors or .pth): {reason}") from error
    if not (isinstance(tensors, dict) and all(isinstance(value, Tensor) for value in tensors.values())):
        raise WeightsError(f"{path} holds no dictionary of tensors: save the network's state_dict")
    return tensors


def load_exactly(network: nn.Module, tensors: Mapping[str, Tensor], *, path: Path, name: str) -> nn.Module:
    """Load all tensors of a network; a WeightsError if one is missing, unknown or of another shape."""
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        problems = textwrap.shorten(" ".join(str(error).splitlines()[1:]), 300)
        raise WeightsError(
            f"{path} does not fit {name}: {problems} Give the weights of {name} or choose another --backbone"
        ) from error
    return network.eval()


def _bvlc_trunk(tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    return load_exactly(BVLCGoogLeNet(), tensors, path=path, name="bvlc_googlenet")


def _torchvision_trunk(tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Return torchvision's network up to inception 5b, with batch normalisation folded into the convolutions."""
    from torchvision.models.googlenet import BasicConv2d, GoogLeNet

    network = GoogLeNet(aux_logits=False, init_weights=False)
    counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
    kept = {key: value for key, value in tensors.items() if not key.startswith(("aux1.", "aux2."))}
    load_exactly(network, {**counters, **kept}, path=path, name="googlenet")
    for module in network.modules():
        if isinstance(module, BasicConv2d):
            module.conv = nn.utils.fusion.fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    children = list(network.named_children())
    names = [name for name, _ in children]
    return nn.Sequential(OrderedDict(children[: names.index("inception5b") + 1]))


def _test_picture(side: int) -> Tensor:
    steps = torch.arange(side, dtype=torch.float32)
    waves = torch.stack([torch.sin(steps[:, None] / k) * torch.cos(steps / (k + 2)) for k in (3, 7, 19)], dim=-1)
    return ((waves + 1) * 127.5).to(torch.uint8)[None]


def _refuse_untrained(backbone: Backbone, path: Path) -> None:
    largest = float(backbone.cubes(_test_picture(backbone.rule.size)).max())
    if not _LEAST_ACTIVATION <= largest < float("inf"):
        raise WeightsError(
            f"{path}: the largest activation for a test picture is {largest:.1e}, as with random weights; "
            f"give trained weights of {backbone.name}"
        )
