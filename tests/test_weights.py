"""Caffe's weights: a caffemodel written here is converted back bit for bit, and damaged ones are refused."""

import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from glimpse_env.video.backbones import BVLCGoogLeNet, WeightsError, load_backbone
from glimpse_env.weights import convert, main, read_caffemodel

DATA = Path(os.environ.get("VIDEOGLIMPSE_DATA", "/nonexistent"))


def varint(number):
    content = b""
    while number > 127:
        content += bytes([number & 127 | 128])
        number >>= 7
    return content + bytes([number])


def field(number, content):
    """Return a field of a message: an int as a varint, bytes with their length."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(values, *, legacy):
    data = field(5, values.astype("<f4").tobytes())
    if legacy:
        sizes = (1,) * (4 - values.ndim) + values.shape
        return b"".join(field(number, size) for number, size in enumerate(sizes, start=1)) + data
    return data + field(7, field(1, b"".join(map(varint, values.shape))))


def write_caffemodel(path, tensors, *, legacy):
    """Write a net with the layers of the tensors, and with some that have no weights or belong to training."""
    layers = {}
    for name, values in tensors.items():
        layer, _, kind = name.rpartition(".")
        layers.setdefault(layer, {})[kind] = blob(values, legacy=legacy)
    net, name_field, blob_field, kind = (2, 4, 6, field(5, 4)) if legacy else (100, 1, 7, field(2, b"Convolution"))
    content = field(1, b"GoogleNet") + field(net, field(name_field, b"data") + field(2 if legacy else 3, b"label"))
    for layer, blobs in layers.items():
        own = field(name_field, layer.encode()) + kind + field(blob_field, blobs["weight"])
        content += field(net, own + field(blob_field, blobs["bias"]))
    auxiliary = blob(np.ones((1, 2), np.float32), legacy=legacy)
    path.write_bytes(content + field(net, field(name_field, b"loss1/fc") + kind + field(blob_field, auxiliary)))
    return path


@pytest.fixture(scope="module")
def tensors(weights):
    """The published tensors if they are at hand, otherwise random ones."""
    published = DATA / "weights" / "bvlc_googlenet.safetensors"
    return load_file(published if published.is_file() else weights)


@pytest.mark.parametrize("legacy", [True, False], ids=["V1LayerParameter", "LayerParameter"])
def test_a_caffemodel_is_converted_bit_for_bit(tensors, tmp_path, capsys, legacy):
    source = write_caffemodel(tmp_path / "net.caffemodel", tensors, legacy=legacy)
    out = tmp_path / "net.safetensors"
    main(["convert", str(source), str(out)])
    converted = load_file(out)
    assert converted.keys() == tensors.keys() == BVLCGoogLeNet().state_dict().keys()
    assert all(converted[name].dtype == np.float32 for name in tensors)
    assert all(converted[name].tobytes() == tensors[name].tobytes() for name in tensors)
    assert all(converted[name].shape == tensors[name].shape for name in tensors)
    load_backbone("bvlc_googlenet", weights=out)
    sha1 = hashlib.sha1(source.read_bytes(), usedforsecurity=False).hexdigest()
    first, note, following = capsys.readouterr().out.splitlines()
    assert first == f"{out}: the weights of {source}, whose sha1 is {sha1}"
    assert "states the sha1 405fc5acd08a3bb12de8ee5e23a96bec22f08204, so this is another file" in note
    assert following == f"Next: python -m glimpse_env.extract folder --videos DIR --weights {out} --out STORE"


def test_blobs_of_every_kind_are_read(tmp_path):
    unpacked = varint(5 << 3 | 5) + struct.pack("<f", 1.5) + varint(5 << 3 | 5) + struct.pack("<f", -2.0)
    doubles = field(8, struct.pack("<2d", 0.25, 4.0)) + field(7, field(1, 1) + field(1, 2))
    third = field(5, struct.pack("<f", 8.0)) + field(7, field(1, b"\1")) + varint(9 << 3 | 1) + bytes(8)
    layer = field(1, b"bn") + field(7, unpacked + field(4, 2)) + field(7, doubles) + field(7, third)
    (tmp_path / "net.caffemodel").write_bytes(field(100, layer))
    blobs = read_caffemodel(tmp_path / "net.caffemodel")
    assert {name: (values.shape, values.tolist()) for name, values in blobs.items()} == {
        "bn.weight": ((1, 1, 1, 2), [[[[1.5, -2.0]]]]),
        "bn.bias": ((1, 2), [[0.25, 4.0]]),
        "bn.2": ((1,), [8.0]),
    }


TINY = field(100, field(1, b"conv") + field(7, field(5, struct.pack("<f", 1.0)) + field(7, field(1, b"\1"))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is no caffemodel with weights: download http://dl\.caffe\.berkeleyvision\.org/bvlc_googlenet"),
        (b"<html>not found</html>", r"is no caffemodel, or was cut \(.*\): download http"),
        (TINY[:-1], r"is no caffemodel, or was cut \(a field of \d+ bytes ends after the file\): download"),
        (b"\xff" * 20, r"is no caffemodel, or was cut \(a number of more than 64 bits before byte 10\): download"),
        (b"\xa3\6", r"is no caffemodel, or was cut \(wire type 3 at byte 2\)"),
        (b"\xa2", r"is no caffemodel, or was cut \(index out of bounds"),
        (
            field(100, field(1, b"x") + field(7, field(5, bytes(8)))),
            r"is no .*, or was cut \(a blob of \[1, 1, 1, 1\] has 2 values\)",
        ),
        (field(100, field(7, b"")), r"is no caffemodel, or was cut \(not enough values to unpack"),
        (field(100, 3), r"is no caffemodel, or was cut \("),
        (TINY, r"is not BVLC's GoogLeNet: 116 tensors differ \(conv1/7x7_s2\.weight is missing\)$"),
    ],
)
def test_files_that_are_no_googlenet_are_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "x.caffemodel").write_bytes(content)
    with pytest.raises(SystemExit, match=r"^error: .*x\.caffemodel " + message):
        main(["convert", str(tmp_path / "x.caffemodel"), str(tmp_path / "x.safetensors")])
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.ones((64, 3, 5, 5)),
            r"1 tensors differ \(conv1/7x7_s2\.weight has shape \(64, 3, 5, 5\) instead of \(64, 3, 7",
        ),
        (np.full((64, 3, 7, 7), np.nan), r"1 tensors differ \(conv1/7x7_s2\.weight has values that are no numbers\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tensors, tmp_path, values, message):
    changed = tensors | {"conv1/7x7_s2.weight": values}
    source = write_caffemodel(tmp_path / "net.caffemodel", changed, legacy=False)
    with pytest.raises(WeightsError, match=r"net\.caffemodel is not BVLC's GoogLeNet: " + message):
        convert(source, tmp_path / "net.safetensors")


def test_a_cut_caffemodel_is_refused_wherever_it_ends(tmp_path):
    path = tmp_path / "x.caffemodel"
    for end in range(len(TINY)):
        path.write_bytes(TINY[:end])
        with pytest.raises(WeightsError, match=r"x\.caffemodel is no caffemodel"):
            read_caffemodel(path)


def test_paths_that_cannot_be_right(tmp_path):
    source, out = tmp_path / "x.caffemodel", tmp_path / "x.safetensors"
    with pytest.raises(SystemExit, match=r"error: no file at .*x\.caffemodel: download http://dl\.caffe"):
        main(["convert", str(source), str(out)])
    with pytest.raises(WeightsError, match=r"x\.pth must end in \.safetensors"):
        convert(source, tmp_path / "x.pth")
    out.touch()
    with pytest.raises(FileExistsError, match=r"x\.safetensors exists: delete it, or choose another file"):
        convert(source, out)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            None,
            r"needs a weights file: pass --weights FILE\.safetensors; python -m glimpse_env\.weights convert",
        ),
        (Path("none.safetensors"), r"no weights file at none\.safetensors: python -m glimpse_env\.weights convert"),
    ],
)
def test_errors_about_missing_weights_name_the_command(weights, message):
    with pytest.raises(WeightsError, match=message):
        load_backbone("bvlc_googlenet", weights=weights)


def test_a_caffemodel_as_weights_names_the_command(tmp_path):
    (tmp_path / "x.caffemodel").touch()
    with pytest.raises(WeightsError, match=r"x\.caffemodel is Caffe's format: python -m glimpse_env\.weights convert"):
        load_backbone("bvlc_googlenet", weights=tmp_path / "x.caffemodel")
