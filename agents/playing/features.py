"""Features that rollouts see: read from the source once per clip, or gathered from a bank on the policy's device.

The environment applies the rules in both cases. With a bank it shows nothing (observation "blind"): the policy plays a
whole episode without waiting for it, and the actions of all frames are then copied from the device at once.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env import ArraySource, ClipSource, SlidingWindows, VideoGlimpseVectorEnv
from glimpse_env.store import StoreSplit

CHUNK = 256  # frames uploaded at a time
SHARE_OF_FREE_MEMORY = 0.5  # the share of a GPU's free memory that a bank may use


def videos_of(source: ClipSource) -> ClipSource:
    """Return the source that windows slide over, or the source itself if there are no windows."""
    return source.source if isinstance(source, SlidingWindows) else source


class FeatureReader:
    """Features of N episodes that have just begun in some environments, for each of their frames 0..T-1.

    `window_index`, (N,) int64, says which of the U different windows of clips each episode plays.
    """

    def __init__(self, envs: VideoGlimpseVectorEnv, device: torch.device) -> None:
        engine = envs.engine
        begins = np.stack([engine.clip, engine.window[:, 0]], 1)  # a clip and a first frame identify a window
        _, firsts, episodes = np.unique(begins, axis=0, return_index=True, return_inverse=True)
        self.window_index = torch.from_numpy(episodes.ravel()).to(device)
        self._source, self._device = envs.source, device
        self._clips, self._frames = engine.clip[firsts], engine.window[firsts]
        self._bank: FeatureBank | None = None
        if engine.rules.observation == "blind":
            self._bank = bank_of(envs.source, device)
            self._rows = self._bank.rows(engine.clip, engine.window)  # (N, T)
            self._firsts = torch.from_numpy(firsts).to(device)

    def cubes(self, frame: int) -> Tensor:
        """Return the (U, K*K, D) cubes of the U windows."""
        if self._bank is not None:
            return self._bank.features[self._rows[self._firsts, frame]].float()
        size, depth = self._source.grid_size, self._source.depth
        out = np.empty((len(self._clips), size, size, depth), np.float32)
        self._source.read_cubes(self._clips, self._frames[:, frame], out)
        return torch.from_numpy(out).flatten(1, 2).to(self._device)

    def slices(self, frame: int, cells: Tensor, observations: NDArray[np.float32]) -> Tensor:
        """Return the (N, m, D) slices at (N, m) `cells` of the source's grid.

        The environments showed them in their (N, m or more, D + 2) observations, followed by zeros.
        """
        if self._bank is not None:
            return self._bank.features[self._rows[:, frame, None], cells].float()
        return torch.from_numpy(observations[:, : cells.shape[1], :-2]).to(self._device)


class FeatureBank:
    """All features of a source on one device.

    Args:
        source: clips, or windows that slide over them; frames that windows share are kept once.
        device: of the bank.

    Attributes:
        features: (frames of all clips, K*K, D), in the precision of the source.
    """

    def __init__(self, source: ClipSource, device: torch.device) -> None:
        self._windows = source if isinstance(source, SlidingWindows) else None
        clips, self._device = videos_of(source), device
        lengths = frames_of_clips(clips)
        self._starts = lengths.cumsum() - lengths
        size = clips.grid_size
        self.features = torch.empty(
            (int(lengths.sum()), size**2, clips.depth), dtype=_TORCH[feature_type(source)], device=device
        )
        owners = np.repeat(np.arange(len(lengths)), lengths)
        places = np.arange(len(owners)) - self._starts[owners]
        for start in range(0, len(owners), CHUNK):
            rows = slice(start, start + CHUNK)
            out = np.empty((len(owners[rows]), size, size, clips.depth), feature_type(source))
            clips.read_cubes(owners[rows], places[rows], out)
            self.features[rows] = torch.from_numpy(out).flatten(1, 2).to(device)

    def rows(self, clips: NDArray[np.int64], frames: NDArray[np.int64]) -> Tensor:
        """Return the (N, T) int64 rows of `features` that hold (N, T) frames of (N,) clips."""
        if self._windows is not None:
            frames = frames + self._windows.first_frames[clips][:, None]
            clips = self._windows.videos[clips]
        return torch.from_numpy(self._starts[clips][:, None] + frames).to(self._device)


_TORCH = {np.dtype(np.float16): torch.float16, np.dtype(np.float32): torch.float32}
_banks: WeakKeyDictionary[ClipSource, dict[torch.device, FeatureBank]] = WeakKeyDictionary()


def bank_of(source: ClipSource, device: torch.device) -> FeatureBank:
    """Return the bank of a source on a device; it is made once and kept as long as the source exists."""
    banks, device = _banks.setdefault(source, {}), _numbered(device)
    if device not in banks:
        banks[device] = FeatureBank(source, device)
    return banks[device]


def fits(source: ClipSource, device: torch.device) -> bool:
    """Return whether the device is a GPU that has a bank of the source, or enough free memory for one.

    Features that are computed on demand get no bank, since it would compute all of them.
    """
    if device.type != "cuda":
        return False
    device = _numbered(device)
    if device in _banks.get(source, {}):
        return True
    clips = videos_of(source)
    if getattr(clips, "computes_features", False):
        return False
    wanted = int(frames_of_clips(clips).sum()) * clips.grid_size**2 * clips.depth * feature_type(source).itemsize
    free, _ = torch.cuda.mem_get_info(device)
    return wanted <= SHARE_OF_FREE_MEMORY * free


def _numbered(device: torch.device) -> torch.device:
    """Return "cuda" with the number of its GPU, as tensors name it."""
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


def frames_of_clips(source: ClipSource) -> NDArray[np.int64]:
    """Return the (clips,) number of frames of each clip."""
    return np.array([len(source.frame_times(clip)) for clip in range(source.num_clips)], np.int64)


def feature_type(source: ClipSource) -> np.dtype[np.float16] | np.dtype[np.float32]:
    """Return the type in which a source keeps its features; float32 if it is unknown."""
    clips, stored = videos_of(source), "float32"
    if isinstance(clips, StoreSplit):
        stored = clips.store.manifest.dtype
    elif isinstance(clips, ArraySource) and clips.features.dtype == np.float16:
        stored = "float16"
    return np.dtype(np.float16) if stored == "float16" else np.dtype(np.float32)
