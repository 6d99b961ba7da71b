"""Decoding ahead, in processes of its own, so that a file on which a decoder crashes or hangs costs that file alone.

A decoder process takes one line of JSON a file on its standard input, and answers on its standard output with one line
of JSON, followed by the bytes of the arrays that the line announces. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from glimpse_env.video.decode import DecodedClip, VideoError, decode_clip
from glimpse_env.video.readers import DecoderChoice, DecoderError, require_decoder

SECONDS_PER_VIDEO = 300.0  # after which a file is given up, unless another limit is given
_CLIPS_AHEAD = 12  # decoded clips that may wait for their use, at most
_FRAMES_AHEAD = 1200  # and frames, 230 MB, unless there are more decoders than that is clips
_ARRAYS = ("times", "numbers", "frames", "thumbnails")
_START_SECONDS = 300.0  # of a decoder, which imports what it needs from a disk that may be slow
_SPARE_SECONDS = 5.0  # after which a decoder that nobody stopped ends itself


class _CrashError(DecoderError):
    """It ended while it had a file to decode."""


class Decoders:
    """Processes that decode files in order, a few before they are asked for; a context manager.

    Args:
        frames_per_second: the rate of the samples.
        max_frames: a longer clip keeps its centred window of this many samples.
        decoder: library to decode with; "auto" chooses by the file.
        processes: how many work at the same time.
        seconds_per_video: after which a file is given up.

    Raises:
        DecoderError: the library chosen is not installed.
    """

    def __init__(
        self,
        *,
        frames_per_second: float,
        max_frames: int,
        decoder: DecoderChoice = "auto",
        processes: int = 1,
        seconds_per_video: float = SECONDS_PER_VIDEO,
    ) -> None:
        require_decoder(decoder)
        sampling = {"frames_per_second": frames_per_second, "max_frames": max_frames, "decoder": decoder}
        self._processes = [DecoderProcess(sampling, seconds_per_video=seconds_per_video) for _ in range(processes)]
        self._idle: SimpleQueue[DecoderProcess] = SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._ahead = max(processes, min(_CLIPS_AHEAD, _FRAMES_AHEAD // max_frames))
        self._threads = ThreadPoolExecutor(processes)

    def start(self) -> None:
        """Start the processes now, which takes them seconds, rather than with the first file."""
        for process in self._processes:
            process.start()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.stop()  # what is still being decoded nobody waits for
        self._threads.shutdown()
        for process in self._processes:
            process.close()

    def decode(self, paths: Iterable[Path]) -> Iterator[DecodedClip | VideoError]:
        """Return for each file, in order, its samples or the error that says why there are none."""
        remaining = iter(paths)
        waiting = deque(self._threads.submit(self._decode, path) for path in islice(remaining, self._ahead))
        while waiting:
            outcome = waiting.popleft().result()
            waiting.extend(self._threads.submit(self._decode, path) for path in islice(remaining, 1))
            yield outcome

    def _decode(self, path: Path) -> DecodedClip | VideoError:
        process = self._idle.get()
        try:
            return process.decode(path)
        except VideoError as error:
            return error
        finally:
            self._idle.put(process)


class DecoderProcess:
    """Decodes files one after the other in another process, which starts with the first file.

    Args:
        sampling: arguments of `decode_clip`.
        seconds_per_video: after which a file is given up.
    """

    def __init__(self, sampling: Mapping[str, Any], *, seconds_per_video: float) -> None:
        self._sampling = sampling
        self._seconds = seconds_per_video
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._stopped = False

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process, without waiting until it is ready."""
        if self._process is None:
            self._process = _launch()
            self._is_ready = False
        return self._process

    def decode(self, path: Path) -> DecodedClip:
        """Sample a video as `decode_clip` does; one call at a time.

        Raises:
            VideoError: as `decode_clip`, or the decoder crashed on the file, took too long or was stopped.
            DecoderError: no decoder process can be started.
        """
        try:
            return self._decode(path)
        except DecoderError:  # not of this file, perhaps: systems short of memory end processes that are idle
            if self._stopped:
                raise VideoError(path, "the decoder was stopped") from None
        try:
            return self._decode(path)
        except _CrashError as error:
            raise VideoError(path, str(error)) from None

    def _decode(self, path: Path) -> DecodedClip:
        process = self.start()
        request = {"path": os.fspath(path.absolute()), "seconds": self._seconds, **self._sampling}
        expired = False
        try:
            if not self._is_ready:
                _await(process)
                self._is_ready = True
            if self._stopped:
                raise VideoError(path, "the decoder was stopped")
            try:
                with _deadline(process, self._seconds) as deadline:
                    return _ask(process, path, request)
            finally:
                expired = deadline.is_set()
        except (EOFError, OSError):
            if expired:
                raise VideoError(path, f"decoding took more than {self._seconds:g} s") from None
            raise _CrashError(_ending(process)) from None
        finally:
            if expired or not self._is_ready or process.poll() is not None:
                self._discard()

    def stop(self) -> None:
        """End the process now, from any thread, whatever it is doing; it is of no use from then on."""
        self._stopped = True
        if process := self._process:
            process.kill()

    def close(self) -> None:
        """End the process when no thread is decoding with it any more."""
        self.stop()
        self._discard()

    def _discard(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _launch() -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C stops the extraction, and must not look like a crash of the decoder.
    return subprocess.Popen(
        [sys.executable, "-c", "from glimpse_env.video.decoders import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )


@contextmanager
def _deadline(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill a process that is still at it after so many seconds; the event tells."""
    expired = threading.Event()

    def give_up() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(seconds, give_up)
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
        timer.join()


def _await(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    with _deadline(process, _START_SECONDS):
        line = process.stdout.readline()
    if line != b"ready\n":
        process.kill()
        raise DecoderError(f"a decoder process did not start: it said {line!r} (exit status {process.wait()})")


def _ask(process: subprocess.Popen[bytes], path: Path, request: dict[str, Any]) -> DecodedClip:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer = json.loads(line)
    if "reason" in answer:
        raise VideoError(path, answer["reason"])
    arrays = {name: _receive(process.stdout, *answer[name]) for name in _ARRAYS}
    return DecodedClip(**arrays, decoder=answer["decoder"], seconds=answer["seconds"])


def _receive(stream: IO[bytes], shape: list[int], dtype: str) -> NDArray[Any]:
    array = np.empty(shape, dtype)
    if array.nbytes and stream.readinto(array.data.cast("B")) < array.nbytes:  # type: ignore[attr-defined]
        raise EOFError
    return array


def _ending(process: subprocess.Popen[bytes]) -> str:
    status = process.wait()
    name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return f"the decoder crashed ({name})"


def serve() -> None:
    """Be a decoder process: answer until the input ends."""
    import torch

    torch.set_num_threads(1)  # leaves the processor to the network
    # What decoders print goes nowhere: standard output belongs to the answers.
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    answers.write(b"ready\n")
    answers.flush()
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for line in sys.stdin.buffer:
        header, arrays = _answer(json.loads(line))
        answers.write(json.dumps(header).encode() + b"\n")
        for array in arrays:
            answers.write(array.data.cast("B"))
        answers.flush()


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    _end_after(request.pop("seconds") + _SPARE_SECONDS)
    try:
        clip = decode_clip(Path(request.pop("path")), **request)
    except VideoError as error:
        return {"reason": error.reason}, []
    except MemoryError:
        return {"reason": "MemoryError: decoding it needs more memory than there is"}, []
    finally:
        _end_after(0)
    arrays = {name: np.ascontiguousarray(getattr(clip, name)) for name in _ARRAYS}
    announced = {name: (array.shape, array.dtype.str) for name, array in arrays.items()}
    return {"decoder": clip.decoder, "seconds": clip.seconds, **announced}, list(arrays.values())


def _end_after(seconds: float) -> None:
    """Have the system end this process after so many seconds, even within a decoder's C code; 0 takes that back.

    A decoder that hangs would outlive an extraction that was killed.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
