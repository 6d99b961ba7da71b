"""The agent: configuration, models, network and losses."""
