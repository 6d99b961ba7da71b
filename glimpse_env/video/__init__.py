"""Video: decoding, networks and the features computed from frames; all of it needs torch."""
