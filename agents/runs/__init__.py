"""Run folders, signals and command lines."""
