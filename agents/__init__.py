"""VideoGlimpse agents: training, measuring and comparing glimpse policies.

An installed wheel provides this package as `glimpse_agents`; a checkout also runs its commands as `python -m agents.X`.
"""
