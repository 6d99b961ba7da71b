"""Open a video file with one of three libraries, chosen by the file alone.

PyAV reads every file in order, from the first frame to the last, and defines the right answer. decord and torchcodec
seek, which is faster if few frames are wanted, but with open groups of pictures, edit lists, AVI and more they return
wrong frames without an error. So they read only plain files, in which tests/test_numbered_frames.py proves them right.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from glimpse_env.video.timeline import Stamps, as_stamps, index_stamps, shown_seconds

DecoderName = Literal["decord", "pyav", "torchcodec"]
DecoderChoice = Literal["auto", "decord", "pyav", "torchcodec"]
# Containers, as FFmpeg calls them, and codecs in which libraries seek right.
_PROVEN = {"mov,mp4,m4a,3gp,3g2,mj2": ("h264", "vp9"), "matroska,webm": ("h264", "vp8", "vp9")}
_PACKAGES = {"decord": "decord", "pyav": "av", "torchcodec": "torchcodec"}
_BATCH_BYTES = 32_000_000  # of pictures that a seeking library returns at once


class DecoderError(RuntimeError):
    """A library is not installed or cannot be loaded, or its process does not start."""


def decoder_versions(choice: DecoderChoice) -> str:
    """Return the choice of decoder, with the names and versions of the libraries that it may use.

    Raises:
        DecoderError: as `require_decoder`.
    """
    require_decoder(choice)
    first = _PACKAGES["decord" if choice == "auto" else choice]
    names = dict.fromkeys([first, "av"] if _is_installed(first) else ["av"])
    return f"{choice}: " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def require_decoder(choice: DecoderChoice) -> None:
    """Raise DecoderError if the library chosen is missing or cannot be loaded."""
    if choice == "auto":
        return
    if not _is_installed(_PACKAGES[choice]):
        remedy = 'pip install "videoglimpse[torchcodec]"' if choice == "torchcodec" else "choose --decoder auto"
        raise DecoderError(f"--decoder {choice} needs {_PACKAGES[choice]}, which is not installed here: {remedy}")
    if choice == "torchcodec":
        try:
            importlib.import_module("torchcodec.decoders")
        except Exception as error:  # of several types
            raise DecoderError(
                "--decoder torchcodec cannot be loaded: its wheel needs the shared libraries of FFmpeg 4 to 8 and the "
                f"torch that it was built for ({str(error).splitlines()[0]}): install them, or choose --decoder auto"
            ) from error


def open_video(path: Path, choice: DecoderChoice = "auto") -> _PyAVReader | _DecordReader | _TorchCodecReader:
    """Open a video with the library chosen, or with the one that fits the file.

    Raises:
        ValueError: the file holds no frames, or the library chosen is not proven right for it.
    """
    assert choice in get_args(DecoderChoice)
    video = _VideoFile(path)
    if choice == "pyav" or (choice == "auto" and not (_is_installed("decord") and video.is_plain)):
        return _PyAVReader(video)
    if not video.is_plain:
        raise ValueError(
            f"{choice} may give wrong frames of {video.codec} in {video.format} with edits, odd frames or a turned "
            "picture: choose --decoder auto or pyav"
        )
    if choice == "torchcodec":
        return _TorchCodecReader(video)
    try:
        return _DecordReader(video)
    except Exception as error:  # it reads only headers here, so that a file is refused always or never
        if choice == "decord" or isinstance(error, MemoryError):
            raise
        return _PyAVReader(video)


class _VideoFile:
    """Facts from the packets and the first frame of a file.

    Raises:
        ValueError: there is no film in it, or no frame of it can be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first: Any = None  # frame
        are_whole, starts_whole = True, False
        pts: list[int | None] = []
        dts: list[int | None] = []
        with _opened(path) as (container, stream):
            self.format: str = container.format.name
            self.codec: str = stream.codec_context.codec.canonical_name
            self.unit = float(stream.time_base)
            for packet in container.demux(stream):
                if self.first is None:
                    self.first = next(iter(_decode(packet)), None)
                if packet.size == 0:
                    continue
                starts_whole = starts_whole or (not pts and packet.is_keyframe)
                are_whole = are_whole and not (packet.is_discard or packet.is_corrupt)
                if self.codec == "h264" and packet.is_keyframe:
                    are_whole = are_whole and _is_idr(packet, stream.codec_context.extradata)
                if not packet.is_discard:
                    pts.append(packet.pts)
                    dts.append(packet.dts)
            films, frames = len(container.streams.video), stream.frames
            self.average_rate = float(stream.average_rate or 0)
        if self.first is None:
            raise ValueError("none of its frames can be decoded")
        self.pts, self.dts = as_stamps(pts), as_stamps(dts)  # of the packets to be shown, in the order of the file
        self._is_regular = (
            films == 1
            and starts_whole
            and are_whole
            and frames in (0, len(pts))
            and len(pts) > 1
            and pts[0] == self.pts.min()  # False with NaN
            and len(np.unique(self.pts)) == len(pts)
        )

    @property
    def is_plain(self) -> bool:
        """Whether libraries that seek return the same pictures as PyAV."""
        frame = self.first
        return (
            self.codec in _PROVEN.get(self.format, ())
            and self._is_regular
            and frame.format.name == "yuv420p"
            and not (frame.width % 2 or frame.height % 2 or frame.interlaced_frame)
            and _display_matrix(frame) is None
        )

    def expected_seconds(self) -> NDArray[np.float64]:
        """Return the times of the frames to be shown if every packet gives one."""
        dts = np.sort(self.dts)
        if self.format == "avi" and self.first.dts is not None:
            dts = index_stamps(dts, self.first.dts)
        return self.shown_seconds(np.sort(self.pts), dts)

    def shown_seconds(self, pts: Stamps, dts: Stamps) -> NDArray[np.float64]:
        """Return the times of frames with these stamps."""
        if self.format == "avi":
            pts = np.full_like(pts, np.nan)
        return shown_seconds(pts, dts, unit=self.unit, average_rate=self.average_rate)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file with PyAV, and choose its film: the default stream, else the largest, else the first."""
    import av

    with av.open(str(path), metadata_errors="ignore") as container:
        kinds = av.stream.Disposition  # a cover is a stream, too
        films = [stream for stream in container.streams.video if not stream.disposition & kinds.attached_pic]
        if not films:
            raise ValueError("it holds no video stream")
        film = max(films, key=lambda s: (bool(s.disposition & kinds.default), s.width * s.height, -s.index))
        film.codec_context.thread_count = 1
        yield container, film


def _is_idr(packet: Any, header: bytes | None) -> bool:
    """Return whether an H.264 packet of MP4 or Matroska holds an IDR picture, before which no later picture refers.

    Source: ISO/IEC 14496-15, section 5.3.4: each NAL unit follows its length; type 5 is a slice of an IDR.
    """
    if not header or len(header) < 5 or header[0] != 1:
        return False
    data, place, length_bytes = memoryview(packet), 0, (header[4] & 3) + 1
    while place + length_bytes < len(data):
        if data[place + length_bytes] & 31 == 5:
            return True
        place += length_bytes + int.from_bytes(data[place : place + length_bytes], "big")
    return False


def _decode(packet: Any) -> Iterator[Any]:
    """Yield the frames that a packet completes; none if it is damaged, as in players."""
    import av

    try:
        yield from packet.decode()
    except av.error.InvalidDataError:
        return


class _PyAVReader:
    """Reads a file from beginning to end; `times` are (n,) seconds of the frames shown."""

    decoder: DecoderName = "pyav"

    def __init__(self, video: _VideoFile) -> None:
        self._video = video
        self.times = video.expected_seconds()

    def read(self, numbers: list[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the upright (height, width, 3) RGB pictures of the shown frames with these ascending numbers.

        Afterwards `times` are those of the frames that were shown.
        """
        from av.video.reformatter import VideoReformatter

        reformatter, wanted = VideoReformatter(), iter([*numbers, -1])
        number = next(wanted)
        pts: list[int | None] = []
        dts: list[int | None] = []
        with _opened(self._video.path) as (container, stream):
            for packet in container.demux(stream):
                for frame in _decode(packet):
                    if len(pts) == number:
                        number = next(wanted)
                        rgb: NDArray[Any] = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                        yield _upright(rgb, _display_matrix(frame))
                    pts.append(frame.pts)
                    dts.append(frame.dts)
        self.times = self._video.shown_seconds(as_stamps(pts), as_stamps(dts))


def _display_matrix(frame: Any) -> NDArray[np.int32] | None:
    """Return the 2 x 2 that turns and mirrors a frame for display, None if it is shown as it is."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    matrix = np.frombuffer(bytes(data), np.int32, 9).reshape(3, 3)[:2, :2]
    return None if matrix[0, 0] > 0 < matrix[1, 1] and not (matrix[0, 1] or matrix[1, 0]) else matrix


def _upright(picture: NDArray[np.uint8], matrix: NDArray[np.int32] | None) -> NDArray[np.uint8]:
    """Turn and mirror a picture by its display matrix (FFmpeg's libavutil/display.h), to the nearest quarter turn."""
    if matrix is None:
        return picture
    if abs(matrix[0, 1]) > abs(matrix[0, 0]):  # columns become rows
        picture, matrix = picture.swapaxes(0, 1), matrix[::-1]
    return np.ascontiguousarray(picture[:: 1 if matrix[1, 1] >= 0 else -1, :: 1 if matrix[0, 0] >= 0 else -1])


class _DecordReader:
    decoder: DecoderName = "decord"

    def __init__(self, video: _VideoFile) -> None:
        # So often decord waits for its own threads at the end of a file before it calls the file broken.
        os.environ.setdefault("DECORD_EOF_RETRY_MAX", "10240")
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._video: Any = decord.VideoReader(str(video.path), num_threads=1)
        self.times = video.expected_seconds()
        if len(self._video) != len(self.times):
            raise ValueError(f"decord counts {len(self._video)} frames of {len(self.times)}")

    def read(self, numbers: list[int]) -> Iterator[NDArray[np.uint8]]:
        at_once = 1  # the first frame shows how large the others are
        while numbers:
            pictures = self._video.get_batch(numbers[:at_once]).asnumpy()
            yield from pictures
            numbers, at_once = numbers[at_once:], max(1, min(16, _BATCH_BYTES // pictures[0].nbytes))


class _TorchCodecReader:
    decoder: DecoderName = "torchcodec"

    def __init__(self, video: _VideoFile) -> None:
        from torchcodec.decoders import VideoDecoder

        self._video: Any = VideoDecoder(str(video.path), num_ffmpeg_threads=1, dimension_order="NHWC")
        self._stamps = np.sort(video.pts) * video.unit
        self.times = video.expected_seconds()

    def read(self, numbers: list[int]) -> Iterator[NDArray[np.uint8]]:
        for number in numbers:
            frame = self._video.get_frame_at(number)
            if abs(frame.pts_seconds - self._stamps[number]) > 1e-4:
                raise ValueError(f"torchcodec gives the frame at {frame.pts_seconds} s for {self._stamps[number]} s")
            yield frame.data.numpy()
