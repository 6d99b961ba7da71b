"""A model in training: its network, optimiser, environments and counters."""

from __future__ import annotations

import math
from typing import Any

from glimpse_env import ClipSource, VideoGlimpseVectorEnv

from ..learning.config import Config
from ..learning.optimise import make_optimizer
from ..parallel.ranks import current_share, from_first
from ..playing.envs import Sources, greedy_play, make_envs, make_policy, sample_slices
from ..playing.evaluation import EVALUATION_ENVS, VALIDATION_SEED, Evaluation, evaluate, evaluate_split
from ..playing.linear import fit_linear, see_split
from .folder import RunFolder, RunResult, load_weights
from .provenance import git_commit


class Trainer:
    """A model in training, for a configuration that is ready for its sources (`Config.for_source`)."""

    def __init__(self, config: Config, sources: Sources) -> None:
        self.config, self.share = config, current_share()
        self.policy = make_policy(config, sources["train"])
        network, clips, watches = config.policy.advanced, sources["train"], self.policy.watches_changes
        if network.standardise or watches or network.projection_size < clips.depth:
            self.policy.fit(sample_slices(clips), sample_slices(clips, place=0.0) if watches else None)
        self.policy.load_state_dict(from_first(self.policy.state_dict))  # machines differ in the last digits
        self.policy.to(config.training.device)
        self.optimizer = make_optimizer(self.policy, config)
        episodes = config.training.clips * config.training.rollouts
        self.episodes = range(episodes)[self.share.of(episodes)]
        self.validation_envs = make_envs(config, sources["validation"], EVALUATION_ENVS, train=False)
        self.num_updates, self.seconds, self.best_update = 0, 0.0, 0
        self.best_rank: tuple[float | None, ...] = (-math.inf,)  # of the measure that chooses, then of the log-score
        self.trained_by: str | None = git_commit()
        self._train_source = sources["train"]
        self._played = self.stage  # by the environments
        self._envs = self._make_envs()

    @property
    def stage(self) -> Config:
        """Configuration that the next update trains with."""
        return self.config.of_update(self.num_updates)

    @property
    def envs(self) -> VideoGlimpseVectorEnv:
        """Environments of the next update, one for each episode of this rank."""
        if self._played != self.stage:
            self._played = self.stage
            self._envs = self._make_envs()
        return self._envs

    def _make_envs(self) -> VideoGlimpseVectorEnv:
        return make_envs(self._played, self._train_source, len(self.episodes), train=True)

    def start_from_linear(self) -> None:
        """Set the linear classifier of the class head to logistic regression."""
        linear, settings, policy = self.policy.class_head.linear, greedy_play(self.config), self.policy.eval()
        assert linear is not None
        seed = self.config.training.seed
        train, held_out = (see_split(envs, policy, settings, seed=seed) for envs in (self.envs, self.validation_envs))
        linear.load_state_dict(fit_linear(train, held_out, linear.out_features)[0].state_dict())
        policy.load_state_dict(from_first(policy.state_dict))
        policy.train()

    def measure_validation(self) -> Evaluation:
        """Measure the network on the validation split."""
        settings, score = greedy_play(self.config), self.config.training.advanced.video_score
        envs, policy = self.validation_envs, self.policy.eval()
        return evaluate(envs, policy, settings, seed=VALIDATION_SEED, video_score=score)

    def conclude(self, run: RunFolder, test: ClipSource | None) -> RunResult:
        """Measure the checkpoint that validation chose, and write the result; `test` is played if it is given."""
        load_weights(self.policy, run.load_best(), place=f"the checkpoint in {run.path}")
        tested = None if test is None else evaluate_split(self.config, self.policy.eval(), test)
        result = RunResult(
            validation=self.measure_validation(),
            test=tested,
            best_update=self.best_update,
            train_seconds=self.seconds,
            trained_by=self.trained_by,
            tested_by=git_commit(),
        )
        run.save_result(result)
        return result

    def state(self) -> dict[str, Any]:
        """Return the state that a run resumes from."""
        counters = {name: getattr(self, name) for name in (*_COUNTERS, "trained_by")}
        return counters | {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Continue from a saved state, if there is one; keep the names of all commits that trained the run.

        Raises:
            ValueError: the state is that of a network of another version.
        """
        if state is None:
            return
        load_weights(self.policy, state["policy"], place="the saved state")
        self.optimizer.load_state_dict(state["optimizer"])
        for name in _COUNTERS:
            setattr(self, name, state[name])
        commits = [state["trained_by"]]
        if self.num_updates < self.config.training.updates:
            commits.append(self.trained_by)
        names = ", ".join(commit for commit in commits if commit).split(", ")
        self.trained_by = ", ".join(dict.fromkeys(names)) or None


_COUNTERS = ("num_updates", "seconds", "best_rank", "best_update")
