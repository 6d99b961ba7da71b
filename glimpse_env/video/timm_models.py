"""Networks of timm: convolutional models and vision transformers, with their own size, colours and interpolation.

A convolutional model gives the output of its last stage, a vision transformer its patch tokens; prefix tokens (class,
registers) are dropped. With a layer it is the output of that stage or block.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from glimpse_env.files import file_sha256
from glimpse_env.video.backbones import TIMM, BackboneError, WeightsError, load_exactly
from glimpse_env.video.decode import Interpolation, ResizeRule


class TimmNetwork(NamedTuple):
    """A network with trained weights, and the pictures that it takes."""

    trunk: nn.Module  # (N, 3, side, side) float32 -> (N, D, K, K)
    weights_sha256: str
    rule: ResizeRule
    mean: Sequence[float]  # of each channel, from 0 to 1
    deviation: Sequence[float]  # standard deviation of each channel, from 0 to 1


def load_timm(name: str, *, layer: str | None, weights: Path | None) -> TimmNetwork:
    """Load `timm:NAME` with weights from a file, or as timm downloads them.

    Raises:
        BackboneError: timm is missing, or has no such model, or the model has no such layer or takes other pictures.
        WeightsError: the weights cannot be had, do not fit the network or were never trained.
    """
    try:
        import timm
        from timm.data import resolve_model_data_config
    except ModuleNotFoundError as error:
        raise BackboneError(f'{name} needs {error.name}: pip install "videoglimpse[timm]"') from error
    kind = name.removeprefix(TIMM)
    if not timm.is_model(kind):
        close = timm.list_models(f"*{kind.partition('.')[0]}*")[:5]
        hint = f", such as {', '.join(close)}" if close else ""
        raise BackboneError(f"timm {timm.__version__} has no model {kind!r}: choose one of timm.list_models(){hint}")
    model = _download(kind) if weights is None else timm.create_model(kind)
    config = resolve_model_data_config(model)
    rule = _rule(name, config["input_size"], config["interpolation"])
    model.reset_classifier(0)
    if weights is None:
        sha256 = _content_sha256(model.state_dict())
    else:
        sha256 = file_sha256(weights)
        _load(model, _read(weights), path=weights, name=name)
    trunk = _Trunk(model.eval(), _stage(model, layer, name))
    return TimmNetwork(trunk, sha256, rule, config["mean"], config["std"])


class _Trunk(nn.Module):
    """A model of timm up to its activations, (N, 3, side, side) -> (N, D, K, K)."""

    def __init__(self, model: Any, stage: int | None) -> None:
        super().__init__()
        self.model, self.stage = model, stage

    def forward(self, pictures: Tensor) -> Tensor:
        if self.stage is not None:
            (activations,) = self.model.forward_intermediates(
                pictures, indices=[self.stage], stop_early=True, intermediates_only=True
            )
            return activations  # type: ignore[no-any-return]
        activations = self.model.forward_features(pictures)
        if activations.ndim == 3:  # (N, prefix + K*K, D) tokens
            tokens = activations[:, getattr(self.model, "num_prefix_tokens", 0) :].transpose(1, 2)
            return tokens.unflatten(2, (math.isqrt(tokens.shape[2]), -1))  # type: ignore[no-any-return]
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return activations.permute(0, 3, 1, 2)  # type: ignore[no-any-return]
        return activations  # type: ignore[no-any-return]


def _download(kind: str) -> Any:
    import timm

    try:
        return timm.create_model(kind, pretrained=True)
    except Exception as error:  # of several types
        reason = str(error).splitlines()[0]
        raise WeightsError(f"timm has no trained weights of {kind} here ({reason}): pass --weights FILE") from error


def _rule(name: str, input_size: tuple[int, int, int], interpolation: str) -> ResizeRule:
    channels, height, width = input_size
    if channels != 3 or height != width or interpolation not in get_args(Interpolation):
        raise BackboneError(
            f"{name} takes {channels} x {height} x {width} pictures by {interpolation!r} interpolation: choose a model "
            f"of square RGB pictures by {' or '.join(get_args(Interpolation))} interpolation"
        )
    return ResizeRule(height, interpolation)  # type: ignore[arg-type]


def _stage(model: Any, layer: str | None, name: str) -> int | None:
    if layer is None:
        return None
    stages = [stage["module"] for stage in getattr(model, "feature_info", [])]
    if not hasattr(model, "forward_intermediates"):
        stages = []
    if layer not in stages:
        choice = f"choose one of {', '.join(stages)}" if stages else "it gives its last one only"
        raise BackboneError(f"{name} has no layer {layer!r}: {choice}")
    return stages.index(layer)


def _read(path: Path) -> dict[str, Tensor]:
    from timm.models import load_state_dict

    try:
        return dict(load_state_dict(str(path), weights_only=True))
    except Exception as error:  # of several types
        raise WeightsError(f"{path} cannot be read as weights (.safetensors or .pth): {error}") from error


def _load(model: Any, tensors: Mapping[str, Tensor], *, path: Path, name: str) -> None:
    """Load weights, except those of a classifier; a WeightsError if they are not those of this model, or untrained."""
    classifier = model.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    # Biases and scales start as constants, and buffers too; training changes them.
    constant = {key: value.clone() for key, value in model.state_dict().items() if value.min() == value.max()}
    load_exactly(
        model,
        {key: value for key, value in tensors.items() if not key.startswith(tuple(f"{head}." for head in heads))},
        path=path,
        name=name,
    )
    loaded = model.state_dict()
    if constant and all(torch.equal(loaded[key], value) for key, value in constant.items()):
        raise WeightsError(
            f"{path}: all biases and scales are as they are before training, as with random weights; give trained "
            f"weights of {name}"
        )


def _content_sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        digest.update(key.encode() + value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
