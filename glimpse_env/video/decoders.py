"""Decoding ahead in other processes, so that a file on which a decoder crashes or hangs costs that file alone.

A decoder process reads one line of JSON for each file. It answers with lines of JSON: one before the bytes of each
picture, and a last one with the samples or the reason why there are none. It ends when its input ends. It never imports
torch, which takes half a gigabyte: pictures are resized here.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from glimpse_env.video.decode import USUAL, DecodedClip, Picture, ResizeRule, Samples, VideoError, resized, sample
from glimpse_env.video.readers import DecoderChoice, DecoderError, require_decoder

SECONDS_PER_VIDEO = 300.0  # default limit, after which a file is given up
_CLIPS_AHEAD = 12  # most decoded clips that may wait for their use
_FRAMES_AHEAD = 1200  # most frames that may wait, 230 MB, unless there are more decoders than that is clips
_PIPE_BYTES = 2**20
_PROGRAM = """
import faulthandler
faulthandler.dump_traceback_later(300, exit=True)  # the disk that it starts from may be slow
from glimpse_env.video.decoders import serve
serve()
"""


class Decoders:
    """Processes that decode files in order, a few ahead of their use; a context manager.

    Args:
        frames_per_second: as of `decode_clip`, like the next two.
        processes: number that work at the same time.
        seconds_per_video: limit after which a file is given up.

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
        """Start the processes now instead of with the first file."""
        for process in self._processes:
            process.start()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.stop()  # without waiting for clips that nobody will use
        self._threads.shutdown()
        for process in self._processes:
            process.discard()

    def decode(self, paths: Iterable[Path], rule: ResizeRule = USUAL) -> Iterator[DecodedClip | VideoError]:
        """Yield for each file, in order, its resized samples or the error that explains why there are none."""
        remaining = iter(paths)
        waiting = deque(self._threads.submit(self._decode, path, rule) for path in islice(remaining, self._ahead))
        while waiting:
            outcome = waiting.popleft().result()
            waiting.extend(self._threads.submit(self._decode, path, rule) for path in islice(remaining, 1))
            yield outcome

    def _decode(self, path: Path, rule: ResizeRule) -> DecodedClip | VideoError:
        process = self._idle.get()
        try:
            return process.decode(path, rule)
        except VideoError as error:
            return error
        finally:
            self._idle.put(process)


class DecoderProcess:
    """A process that decodes one file after the other with these arguments of `decode_clip`."""

    def __init__(self, sampling: Mapping[str, Any], *, seconds_per_video: float) -> None:
        self._sampling = sampling
        self._seconds = seconds_per_video
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = self._stopped = False

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process, without waiting until it is ready."""
        if self._process is None:
            self._process, self._is_ready = _launch(), False
        return self._process

    def decode(self, path: Path, rule: ResizeRule = USUAL) -> DecodedClip:
        """Sample a video as `decode_clip` does; one call at a time.

        Raises:
            VideoError: as `decode_clip`, or the decoder crashed on the file, took too long or was stopped.
            DecoderError: no decoder process can be started.
        """
        request = {"path": os.fspath(path.absolute()), "seconds": self._seconds, **self._sampling}
        failure: Exception | None = None
        for _ in range(2):  # systems short of memory kill idle processes, which is not the file's fault
            if self._stopped:
                break
            process, begun = self.start(), math.inf
            try:
                self._is_ready = self._is_ready or _await(process)
                begun = time.monotonic()
                return resized(_ask(process, path, request), rule)
            except DecoderError as error:
                failure = error
            except (EOFError, OSError):
                status = process.wait()
                if time.monotonic() - begun >= self._seconds:
                    raise VideoError(path, f"decoding took more than {self._seconds:g} s") from None
                ending = signal.Signals(-status).name if status < 0 else f"exit status {status}"
                failure = VideoError(path, f"the decoder crashed ({ending})")
            finally:
                if self._stopped or not self._is_ready or process.poll() is not None:
                    self.discard()
        raise VideoError(path, "the decoder was stopped") if self._stopped or failure is None else failure

    def stop(self) -> None:
        """End the process now, from any thread; it cannot be used again."""
        self._stopped = True
        if process := self._process:
            process.kill()

    def discard(self) -> None:
        """Clean up when no thread is decoding with the process any more."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _launch() -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C stops the extraction, and must not look like a crash of the decoder.
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pipesize=_PIPE_BYTES,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )


def _await(process: subprocess.Popen[bytes]) -> bool:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != b"ready\n":
        process.kill()
        raise DecoderError(f"a decoder process did not start: it said {line!r} (exit status {process.wait()})")
    return True


def _ask(process: subprocess.Popen[bytes], path: Path, request: dict[str, Any]) -> Iterator[Picture | Samples]:
    """Yield a process's answer; raises EOFError or OSError if it ends before."""
    answers: Any = process.stdout
    assert process.stdin is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    while (line := answers.readline()).endswith(b"\n"):
        answer = json.loads(line)
        if "reason" in answer:
            raise VideoError(path, answer["reason"])
        if "shape" in answer:
            rgb = np.empty(answer.pop("shape"), np.uint8)
            if answers.readinto(rgb.data.cast("B")) < rgb.nbytes:
                break
            yield Picture(**answer, rgb=rgb)
        else:
            numbers = np.array(answer.pop("numbers"), np.int64)
            yield Samples(times=np.array(answer.pop("times")), numbers=numbers, **answer)
            return
    raise EOFError


def serve() -> None:
    """Be a decoder process: answer until the input ends."""
    # Whatever decoders print goes nowhere: standard output belongs to the answers.
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    answers.write(b"ready\n")
    answers.flush()
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    faulthandler.cancel_dump_traceback_later()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # Ends this process even within a decoder's C code, and if the extraction was killed.
        faulthandler.dump_traceback_later(request.pop("seconds"), exit=True)
        for header, content in _answer(Path(request.pop("path")), request):
            answers.write(json.dumps(header).encode() + b"\n")
            answers.write(content)
        answers.flush()
        faulthandler.cancel_dump_traceback_later()


def _answer(path: Path, sampling: dict[str, Any]) -> Iterator[tuple[dict[str, Any], memoryview | bytes]]:
    try:
        for part in sample(path, **sampling):
            if isinstance(part, Picture):
                rgb = np.ascontiguousarray(part.rgb)
                yield {"place": part.place, "count": part.count, "shape": rgb.shape}, rgb.data.cast("B")
            else:
                yield asdict(part) | {"times": part.times.tolist(), "numbers": part.numbers.tolist()}, b""
    except VideoError as error:
        yield {"reason": error.reason}, b""
    except MemoryError:
        yield {"reason": "MemoryError: decoding it needs more memory than there is"}, b""
