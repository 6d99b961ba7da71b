"""A model in training: its network, optimiser, environments and counters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from glimpse_env import ClipSource, VideoGlimpseVectorEnv

from ..learning.config import Config
from ..learning.optimise import make_optimizer
from ..parallel.ranks import current_share, from_first
from ..playing.envs import Sources, greedy_play, make_envs, make_policy, sample_slices
from ..playing.evaluation import EVALUATION_ENVS, VALIDATION_SEED, Evaluation, evaluate, evaluate_split
from ..playing.linear import MAX_FRAMES, fit_linear, see_split, weigh_logits
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
        self.best_rank: tuple[float, ...] = ()  # below every other
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

    def add_linear(self) -> tuple[Evaluation, tuple[float, float] | None]:
        """Add logistic regression to the class logits, if validation prefers the sum.

        Returns:
            measures of the validation split, and the weights of the network's and of the linear classifier's logits;
            None if the network's own logits stay.
        """
        config, source, policy, head = self.config, self._train_source, self.policy.eval(), self.policy.class_head
        head.remove_linear()
        alone, settings, seed = self.measure_validation(), greedy_play(config), config.training.seed
        order = np.random.default_rng(seed).permutation(source.num_clips)
        clips = np.sort(order[: max(1, MAX_FRAMES // policy.shape.frames)])
        envs = make_envs(config, source, EVALUATION_ENVS, train=True)
        train = see_split(envs, policy, settings, seed=seed, clips=clips)
        held_out = see_split(self.validation_envs, policy, settings, seed=VALIDATION_SEED)
        classifier, _ = fit_linear(train, held_out, policy.shape.outputs)
        weights = weigh_logits(held_out.class_logits, classifier(held_out.inputs), self.validation_envs.source)
        head.add_linear(classifier, weights)
        if self.rank(summed := self.measure_validation()) > self.rank(alone):
            return summed, weights
        head.remove_linear()
        return alone, None

    def measure_validation(self) -> Evaluation:
        """Measure the network on the validation split."""
        settings, score = greedy_play(self.config), self.config.training.advanced.video_score
        envs, policy = self.validation_envs, self.policy.eval()
        return evaluate(envs, policy, settings, seed=VALIDATION_SEED, video_score=score)

    def rank(self, measured: Evaluation) -> tuple[float, ...]:
        """Return the measures by which checkpoints are compared: the one that chooses, then the log-score.

        On few videos many checkpoints have the same accuracy. A measure that is unknown ranks last.
        """
        scores = (getattr(measured, self.config.chosen_by), measured.log_score)
        return tuple(-math.inf if score is None else score for score in scores)

    def conclude(self, run: RunFolder, test: ClipSource | None) -> RunResult:
        """Add the linear classifier to the checkpoint that validation chose, measure it, and write the result.

        `test` is played if it is given.
        """
        load_weights(self.policy, run.load_best(), place=f"the checkpoint in {run.path}")
        if self.config.policy.advanced.linear_finish:
            validation, weights = self.add_linear()
            run.save_best(self.policy.state_dict())
        else:
            validation, weights = self.measure_validation(), None
        tested = None if test is None else evaluate_split(self.config, self.policy.eval(), test)
        result = RunResult(
            validation=validation,
            test=tested,
            best_update=self.best_update,
            logit_weights=weights,
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
