"""Conversion of Caffe's weights of GoogLeNet, which bvlc_googlenet needs.

    python -m glimpse_env.weights convert bvlc_googlenet.caffemodel OUT.safetensors

The publisher's file is http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel. A caffemodel is a protocol buffer:
https://github.com/BVLC/caffe/blob/master/src/caffe/proto/caffe.proto has its messages, and
https://protobuf.dev/programming-guides/encoding its bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from glimpse_env.files import write_atomically
from glimpse_env.terminal import escape_unprintable
from glimpse_env.video.backbones import CAFFEMODEL, BVLCGoogLeNet, WeightsError

PUBLISHED_SHA1 = "405fc5acd08a3bb12de8ee5e23a96bec22f08204"  # stated in models/bvlc_googlenet/readme.md of Caffe
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
# Numbers of fields: (of layers in the net, of a layer's name, of its blobs). Both layouts occur.
_LAYOUTS = {"V1LayerParameter": (2, 4, 6), "LayerParameter": (100, 1, 7)}
_FLOATS, _DOUBLES, _SHAPE, _LEGACY_SHAPE = 5, 8, 7, (1, 2, 3, 4)  # of a blob


def convert(source: Path, out: Path) -> None:
    """Write the tensors of BVLC's GoogLeNet in a caffemodel as safetensors.

    Raises:
        FileNotFoundError: there is no caffemodel.
        FileExistsError: `out` exists.
        WeightsError: the file is no caffemodel or of another network, or `out` has another suffix than .safetensors.
    """
    if out.suffix != ".safetensors":
        raise WeightsError(f"{out} must end in .safetensors")
    if out.exists():
        raise FileExistsError(f"{out} exists: delete it, or choose another file")
    if not source.is_file():
        raise FileNotFoundError(f"no file at {source}: download {CAFFEMODEL}")
    tensors = _fitted(read_caffemodel(source), source)
    write_atomically(out, save(tensors, metadata={"format": "pt"}))


def read_caffemodel(path: Path) -> dict[str, NDArray[Any]]:
    """Return the blobs of each layer: `<layer>.weight`, `<layer>.bias`, and further ones as `<layer>.2` and so on.

    Raises:
        WeightsError: it is no caffemodel, or no layer has blobs.
    """
    blobs: dict[str, NDArray[Any]] = {}
    try:
        for number, value in _fields(memoryview(path.read_bytes())):
            for layers, name_field, blob_field in _LAYOUTS.values():
                if number == layers:
                    fields = list(_fields(value))
                    (name,) = (bytes(text).decode() for key, text in fields if key == name_field)
                    for place, blob in enumerate(content for key, content in fields if key == blob_field):
                        suffix = ("weight", "bias")[place] if place < 2 else str(place)
                        blobs[f"{name}.{suffix}"] = _blob(blob)
    except (ValueError, TypeError, IndexError) as error:
        raise WeightsError(f"{path} is no caffemodel, or was cut ({error}): download {CAFFEMODEL}") from error
    if not blobs:
        raise WeightsError(f"{path} is no caffemodel with weights: download {CAFFEMODEL}")
    return blobs


def _fitted(blobs: Mapping[str, NDArray[Any]], source: Path) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of the network in its shapes; legacy blobs have four sizes, the first ones 1."""
    tensors, problems = {}, []
    for name, wanted in BVLCGoogLeNet().state_dict().items():
        blob, shape = blobs.get(name), tuple(wanted.shape)
        if blob is None:
            problems.append(f"{name} is missing")
        elif tuple(size for size in blob.shape if size > 1) != tuple(size for size in shape if size > 1):
            problems.append(f"{name} has shape {blob.shape} instead of {shape}")
        elif not np.isfinite(blob).all():
            problems.append(f"{name} has values that are no numbers")
        else:
            tensors[name] = np.ascontiguousarray(blob.reshape(shape), np.float32)
    if problems:
        raise WeightsError(f"{source} is not BVLC's GoogLeNet: {len(problems)} tensors differ ({problems[0]})")
    return tensors


def _blob(buffer: memoryview) -> NDArray[Any]:
    floats: list[NDArray[Any]] = []
    legacy, shape = dict.fromkeys(_LEGACY_SHAPE, 1), None
    for number, value in _fields(buffer):
        if number in (_FLOATS, _DOUBLES):
            floats.append(np.frombuffer(value, "<f4" if number == _FLOATS else "<f8"))
        elif number == _SHAPE:
            shape = [size for key, packed in _fields(value) if key == 1 for size in _sizes(packed)]
        elif number in legacy:
            legacy[number] = int(value)
    values = np.concatenate(floats) if floats else np.empty(0, np.float32)
    sizes = list(legacy.values()) if shape is None else shape
    if math.prod(sizes) != len(values):
        raise ValueError(f"a blob of {sizes} has {len(values)} values")
    return values.reshape(sizes)


def _sizes(packed: Any) -> Iterator[int]:
    if isinstance(packed, int):  # not packed
        yield packed
        return
    place = 0
    while place < len(packed):
        size, place = _varint(packed, place)
        yield size


def _fields(buffer: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a message: an int, or the bytes of anything else."""
    place = 0
    while place < len(buffer):
        key, place = _varint(buffer, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(buffer, place)
            yield number, value
            continue
        if kind == _BYTES:
            size, place = _varint(buffer, place)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind} at byte {place}")
        if place + size > len(buffer):
            raise ValueError(f"a field of {size} bytes ends after the file")
        yield number, buffer[place : place + size]
        place += size


def _varint(buffer: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = buffer[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError(f"a number of more than 64 bits before byte {place}")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="videoglimpse weights",
        description="Convert Caffe's weights of GoogLeNet into the safetensors file that bvlc_googlenet needs.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("convert", help="write a caffemodel as safetensors")
    command.add_argument("source", type=Path, metavar="CAFFEMODEL", help=f"the file {CAFFEMODEL}")
    command.add_argument("out", type=Path, metavar="OUT", help="file to write, ending in .safetensors")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    escape_unprintable()
    given = parse_arguments(arguments)
    try:
        convert(given.source, given.out)
        sha1 = hashlib.sha1(given.source.read_bytes(), usedforsecurity=False).hexdigest()
    except (WeightsError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{given.out}: the weights of {given.source}, whose sha1 is {sha1}")
    if sha1 != PUBLISHED_SHA1:
        print(f"note: Caffe's model zoo states the sha1 {PUBLISHED_SHA1}, so this is another file")
    print(f"Next: python -m glimpse_env.extract folder --videos DIR --weights {quote(str(given.out))} --out STORE")


if __name__ == "__main__":
    main()
