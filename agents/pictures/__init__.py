"""Pictures of played episodes: film strips and movies."""
