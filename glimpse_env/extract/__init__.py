"""The extraction of data sets of videos into feature stores; its command line is `python -m glimpse_env.extract`."""

from glimpse_env.extract.run import extract
from glimpse_env.extract.settings import HMDB51, UCF101, ActivityNet, Folder, Settings

__all__ = ["HMDB51", "UCF101", "ActivityNet", "Folder", "Settings", "extract"]
