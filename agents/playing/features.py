"""What rollouts see: features read from the source, once for all episodes of a clip, or gathered from a bank of all of
them on the policy's device.

The rules stay in the environment either way. Beside a bank it is asked to show nothing (observation "blind"): then the
policy plays a whole episode without waiting for it, and the actions of all frames are fetched from the device at once.
"""

from __future__ import annotations

from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glimpse_env import ArraySource, ClipSource, SlidingWindows, VideoGlimpseVectorEnv
from glimpse_env.engine import EpisodeEngine
from glimpse_env.sources.protocol import computes_features
from glimpse_env.store import StoreSplit

CHUNK = 256  # frames that are uploaded at a time
SHARE_OF_FREE_MEMORY = 0.5  # that a bank may take of a GPU's


class Sight(Protocol):
    """What N episodes that have just begun show in each of their frames 0..T-1.

    Attributes:
        episodes: (N,) int64, which of the U different windows of clips each episode plays.
    """

    episodes: Tensor

    def cubes(self, frame: int) -> Tensor:
        """Return (U, K*K, D) of each of the U windows."""

    def slices(self, frame: int, cells: Tensor, observations: NDArray[np.float32]) -> Tensor:
        """Return (N, m, D): what lies at (N, m) `cells` of the source's grid.

        Args:
            observations: (N, m or more, D + 2), what the environments showed of these cells and then of no more.
        """


def sight_of(envs: VideoGlimpseVectorEnv, device: torch.device) -> Sight:
    """Return what the episodes that have just begun in environments show."""
    return BankSight(envs, device) if envs.engine.rules.observation == "blind" else SourceSight(envs, device)


class SourceSight:
    """What is read from the source: whole cubes here, slices by the environments."""

    def __init__(self, envs: VideoGlimpseVectorEnv, device: torch.device) -> None:
        firsts, episodes = different_windows(envs.engine)
        self._source, self._device = envs.source, device
        self._clips, self._frames = envs.engine.clip[firsts], envs.engine.window[firsts]
        self.episodes = torch.from_numpy(episodes).to(device)

    def cubes(self, frame: int) -> Tensor:
        size, depth = self._source.grid_size, self._source.depth
        out = np.empty((len(self._clips), size, size, depth), np.float32)
        self._source.read_cubes(self._clips, self._frames[:, frame], out)
        return torch.from_numpy(out).flatten(1, 2).to(self._device)

    def slices(self, frame: int, cells: Tensor, observations: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(observations[:, : cells.shape[1], :-2]).to(self._device)


class BankSight:
    """What is gathered from the bank of all features of the source."""

    def __init__(self, envs: VideoGlimpseVectorEnv, device: torch.device) -> None:
        self._bank, engine = bank_of(envs.source, device), envs.engine
        firsts, episodes = different_windows(engine)
        self.episodes = torch.from_numpy(episodes).to(device)
        self._rows = self._bank.rows(engine.clip, engine.window)  # (N, T)
        self._firsts = torch.from_numpy(firsts).to(device)

    def cubes(self, frame: int) -> Tensor:
        return self._bank.features[self._rows[self._firsts, frame]].float()

    def slices(self, frame: int, cells: Tensor, observations: NDArray[np.float32]) -> Tensor:
        return self._bank.features[self._rows[:, frame, None], cells].float()


class FeatureBank:
    """All features of a source on one device.

    Args:
        source: clips, or windows that slide over them: what they share is there once.
        device: where to.

    Attributes:
        features: (frames of all clips, K*K, D), in the precision in which they are stored.
    """

    def __init__(self, source: ClipSource, device: torch.device) -> None:
        self._windows = source if isinstance(source, SlidingWindows) else None
        clips, self._device = (source if self._windows is None else self._windows.source), device
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
        """Return (N, T) int64 rows of `features`: where (N, T) frames of (N,) clips are."""
        if self._windows is not None:
            frames = frames + self._windows.first_frames[clips][:, None]
            clips = self._windows.videos[clips]
        return torch.from_numpy(self._starts[clips][:, None] + frames).to(self._device)


_TORCH = {np.dtype(np.float16): torch.float16, np.dtype(np.float32): torch.float32}
_banks: WeakKeyDictionary[ClipSource, dict[torch.device, FeatureBank]] = WeakKeyDictionary()


def bank_of(source: ClipSource, device: torch.device) -> FeatureBank:
    """Return the bank of a source on a device, made once for as long as the source is in use."""
    banks, device = _banks.setdefault(source, {}), _numbered(device)
    if device not in banks:
        banks[device] = FeatureBank(source, device)
    return banks[device]


def fits(source: ClipSource, device: torch.device) -> bool:
    """Return whether the device is a GPU with a bank of the source, or memory to spare for one; a bank of features that
    are computed on demand would compute all of them.
    """
    if device.type != "cuda":
        return False
    device = _numbered(device)
    if device in _banks.get(source, {}):
        return True
    clips = source.source if isinstance(source, SlidingWindows) else source
    if computes_features(clips):
        return False
    wanted = int(frames_of_clips(clips).sum()) * clips.grid_size**2 * clips.depth * feature_type(source).itemsize
    free, _ = torch.cuda.mem_get_info(device)
    return wanted <= SHARE_OF_FREE_MEMORY * free


def _numbered(device: torch.device) -> torch.device:
    """Return "cuda" with the number of the GPU that it means, by which its tensors know it."""
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


def frames_of_clips(source: ClipSource) -> NDArray[np.int64]:
    """Return (clips,): how many frames the source holds of each."""
    return np.array([len(source.frame_times(clip)) for clip in range(source.num_clips)], np.int64)


def feature_type(source: ClipSource) -> np.dtype[np.float16] | np.dtype[np.float32]:
    """Return the type in which a source keeps its features, float32 where it does not say."""
    clips = source.source if isinstance(source, SlidingWindows) else source
    stored = "float32"
    if isinstance(clips, StoreSplit):
        stored = clips.store.manifest.dtype
    elif isinstance(clips, ArraySource) and clips.features.dtype == np.float16:
        stored = "float16"
    return np.dtype(np.float16) if stored == "float16" else np.dtype(np.float32)


def different_windows(engine: EpisodeEngine) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (U,) the first episode of each different window of a clip, and (N,) which of them each episode plays."""
    begins = np.stack([engine.clip, engine.window[:, 0]], 1)  # a window is known by its clip and its first frame
    _, firsts, episodes = np.unique(begins, axis=0, return_index=True, return_inverse=True)
    return firsts, episodes.ravel()
