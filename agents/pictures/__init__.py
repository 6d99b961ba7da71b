"""Film strips and movies of episodes."""
