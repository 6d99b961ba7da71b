"""Data sets of videos: names, labels and official splits, read from folders and annotation files.

A description opens no video: it names the files to decode and their ground truth.
"""

from glimpse_env.datasets.activitynet import activitynet, read_activitynet
from glimpse_env.datasets.description import VIDEO_SUFFIXES, DatasetError, VideoClip, VideoDataset
from glimpse_env.datasets.folders import folder
from glimpse_env.datasets.official import hmdb51, read_hmdb_splits, ucf101

__all__ = [
    "VIDEO_SUFFIXES",
    "DatasetError",
    "VideoClip",
    "VideoDataset",
    "activitynet",
    "folder",
    "hmdb51",
    "read_activitynet",
    "read_hmdb_splits",
    "ucf101",
]
