"""The feature store: a data set's feature cubes on disk, read lazily by any number of processes.

Format, version 2. A store is a folder:

    manifest.json               contents of the store (`Manifest`), size and sha256 of every other file, and its own
                                sha256 (of the rest as JSON with sorted keys and no spaces); `complete` is false until
                                the extraction has finished, and only complete stores open
    index.npz                   one entry per clip, in the order of their ids: clip_ids (str), labels (int64),
                                shards (int64), first_rows (int64), num_frames (int64), starts (float64, seconds of the
                                first frame), crc32 (uint32, of the bytes of the clip's features), and splits
                                (folds, clips) uint8: 0 unused, 1 train, 2 validation, 3 test.
                                A label is an index into the manifest's class_names, or -1. In an untrimmed store all
                                labels are -1, and there is one entry more per true segment, in the order of the clips:
                                segment_clips (int64, index into the entries per clip), segment_starts and segment_ends
                                (float64, seconds from the video's beginning) and segment_labels (int64)
    shards/<5 digits>/          rows are frames; the frames of a clip are consecutive rows of one shard
        features.npy            (rows, K, K, D) float16, finite; if the manifest names a `crop`, the cells of all
                                frames but a clip's first are of crops around them, not of the whole frame
        thumbnails.npy          (rows, 112, 112, 3) uint8 RGB
        coverage.npy            (rows, K, K) uint8, how much of the cell the actor covers, 255 = all; optional
        record.json             the shard's clips, the library that decoded each, its CRC-32, and the reasons why other
                                videos of its share are unreadable; no shard number and no labels, so that a shard is
                                the same in every store that it is merged into
    report.json                 failures and times; no part of the store, and the only file whose bytes may differ
                                between two extractions with the same settings
    lazy.json                   settings that compute the same features on demand (`glimpse_env.video.lazy`), with the
                                paths of videos and weights; no part of the store either

Clips differ in length: only real frames are stored. Frame n of a clip, from 0, shows at starts + n / frames_per_second.
Nothing is pickled. Reading needs NumPy alone; `glimpse_env.extract` writes stores.

A merged store (`python -m glimpse_env.store merge`) is a store like any other: the shards of its parts under new
numbers, as hard links if possible, with an index and a manifest of all. Only in a merged store can the clips of a shard
stand apart in the index. Files of a store are never changed in place, so linked files stay as they are.

Version 1 is read too. It has no crc32, and its manifest no `min_feature` and `layer`: its features are 0 or more.
"""

from glimpse_env.store.manifest import Manifest, StoreError
from glimpse_env.store.reader import FeatureStore, StoreSplit

__all__ = ["FeatureStore", "Manifest", "StoreError", "StoreSplit"]
