"""What a training run is told: one frozen dataclass, its presets, and its way to and from JSON."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import tyro
from typing_extensions import Self

from glimpse_env import ClipSource
from glimpse_env.catalogue import EMBEDDED

from ..playing.rollout import SOFT, InView, Looking
from ..runs.folder import read_json
from .losses import Baseline, Credit
from .policy import PolicyConfig

Reward = Literal["eq7", "frame_log_score", "clip_log_score"]
Preset = Literal["small", "features", "paper"]
Control = Literal[
    "unlimited", "gumbel", "soft", "soft_hidden", "soft_top", "random", "centre", "oracle", "mean", "max", "all"
]
VideoScore = Literal["mean", "last16", "mode"]
Settings = Mapping[str, Any]  # fields of Config by name; those of its network as "policy.<field>"

# What an arm may be told for itself, beside the fields of its network. Its episodes, and how many, are those of all.
OF_AN_ARM = (
    "learning_rate", "scorer_learning_rate", "weight_decay", "scorer_weight_decay", "max_grad_norm", "penalty",
    "entropy_bonus", "random_share",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a recurrent glimpse policy by REINFORCE and compare it with controls."""

    source: str = "synthetic"
    """"synthetic", "synthetic-untrimmed", the path of a feature store, or "lazy:STORE"."""
    fold: int = 1
    """Which official split of the dataset."""
    observation: InView = "glimpsed"
    """What the location logits may see of a frame: what was chosen in it, or all of it."""
    glimpses: int = 5
    """m, the cells looked at in every frame after the first."""
    frames: int | None = None
    """T; the source's own without it."""
    window_seconds: float | None = None
    """In place of frames: clips are windows of so many seconds that slide over each video, and a video's scores are the
    mean of its windows'."""
    stride_seconds: float | None = None
    """From the start of one window to that of the next; half a window without it."""
    jitter: bool = False
    """Train on random windows of clips longer than T."""
    mirror: bool = False
    """Train on grids mirrored left to right half of the time."""
    abstain: bool | None = None
    """Let the agent say "no prediction"; without it, only where clips are untrimmed. `--abstain True` or `False`."""
    eta: float = 0.5
    """Weight of true against false positives in the reward (eq. 7)."""
    look_cost: float = 0.0
    """What each look takes off the reward of those who choose what to see; with "unlimited" glimpses it decides how
    many there are."""
    preset: Preset = "small"
    """What the other defaults are: "small" for the synthetic cubes, "features" for stores of real features, "paper" for
    the paper's choices where it makes them. Without it the source decides between the first two."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The network."""

    updates: int = 1000
    """Optimiser steps."""
    epochs: float | None = None
    """Passes over the training clips, in place of updates."""
    warmup_updates: int = 300
    """Of them, how many at the start play random glimpses and train the classifier alone."""
    scorer_updates: int = 0
    """After those, how many train the location logits alone."""
    clips: int = 32
    """B, the clips of an update."""
    rollouts: int = 4
    """R, the rollouts of each clip; with the baseline "leave_one_out" at least 2."""
    clips_at_once: int | None = None
    """How many of them, with all their rollouts, go through an update's network together; gradients are summed over
    such parts, which bounds the memory. All without it, and for attention that is learned by back-propagation."""
    learning_rate: float = 3e-3
    """Of Adam; over the last third of the updates it falls linearly to a tenth."""
    scorer_learning_rate: float = 3e-3
    """Of the weights of the location logits alone, likewise."""
    weight_decay: float = 0.0
    """L2 penalty on the weights (eq. 8)."""
    scorer_weight_decay: float = 0.0
    """L2 penalty on the weights of the location logits alone."""
    max_grad_norm: float = 1.0
    """The gradient is clipped to this norm."""
    penalty: float = 0.0
    """lambda, the weight of the doubly stochastic attention penalty (eq. 8)."""
    entropy_bonus: float = 0.003
    """Weight of the entropy of the location logits; it falls linearly from the first update to 0 at the last."""
    credit: Credit = "causal"
    """"causal": a glimpse is credited with what is predicted after it; "terminal": with r_T (the paper)."""
    baseline: Baseline = "leave_one_out"
    """What is taken off a return: the mean of the clip's other rollouts, nothing, or a "value" of the LSTM's state that
    is learned by squared error beside the policy."""
    class_gradient: bool | None = None
    """Draw the class in training and let its log-probability into the policy gradient, instead of taking the likeliest;
    without it, only where there is "no prediction", which needs it. `--class-gradient True` or `False`."""
    reward: Reward = "eq7"
    """What is maximised: eq. 7, or a log-score of the label in its place."""
    random_share: float = 0.0
    """Share of the learned policy's choices in training that are random instead: the classifier must not come to lean
    on the glimpses it is given. The policy gradient leaves them out."""

    arm_settings: Annotated[dict[str, dict[str, Any]], tyro.conf.Suppress, tyro.conf.Fixed] = field(
        default_factory=dict
    )
    """Settings that some arms have in place of the run's, by the name of the arm: those of `OF_AN_ARM` and
    "policy.<field>". `--tuned` of the commands reads them from a file of agents.tune."""
    controls: tuple[Control, ...] = ("random",)
    """Other ways of looking, each trained like the policy. "random", "centre", "oracle": m cells of which nothing is
    learned; "mean", "max", "all": every cell, pooled, or through the agent's encoder (with "sum" all is mean); "soft",
    "soft_hidden", "soft_top", "gumbel": learned by back-propagation; "unlimited": by REINFORCE, any set of cells."""
    seed: int = 1
    """Of every random choice."""
    video_score: VideoScore = "mean"
    """How an episode's frames are put together when it is judged: "mean" of their softmaxes, "last16": of the last 16
    of them, or "mode": the class that most of them predict. A video's windows are averaged in any case."""
    device: str = "cpu"
    """"cpu", "cuda" or "cuda:1"."""
    validate_every: int = 50
    """Updates between two looks at the validation split, which chooses the checkpoint."""
    checkpoint_seconds: float = 60.0
    """Between two saves: at most this much training is lost by a kill, and the update or validation under way."""

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs <= 0:
            raise ValueError(f"epochs must be positive, got {self.epochs}")
        for name in ("updates", "clips", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.clips_at_once is not None and self.clips_at_once < 1:
            raise ValueError(f"clips_at_once must be at least 1, got {self.clips_at_once}")
        for name in ("warmup_updates", "scorer_updates", "look_cost", "penalty", "entropy_bonus"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.warmup_updates + self.scorer_updates > self.updates:
            raise ValueError(
                f"warmup_updates and scorer_updates must fit into updates, got {self.warmup_updates} + "
                f"{self.scorer_updates} > {self.updates}"
            )
        if not 0 <= self.random_share < 1:
            raise ValueError(f"random_share must lie in [0, 1), got {self.random_share}")
        if self.rollouts < (needed := 2 if self.baseline == "leave_one_out" else 1):
            raise ValueError(f"rollouts must be at least {needed} with baseline {self.baseline!r}, got {self.rollouts}")
        if self.frames is not None and self.window_seconds is not None:
            raise ValueError(
                f"frames ({self.frames}) and window_seconds ({self.window_seconds}) both set T: give one of them "
                "(--frames None takes a preset's away)"
            )
        if self.frames is not None and self.frames < 2:
            raise ValueError(f"frames must be at least 2, one to choose in and one to look at, got {self.frames}")
        if self.reward == "clip_log_score" and self.credit == "causal":
            raise ValueError("reward 'clip_log_score' is one number for the whole clip: it needs credit 'terminal'")
        if self.video_score not in get_args(VideoScore):
            raise ValueError(f"video_score must be one of {get_args(VideoScore)}, got {self.video_score!r}")
        if self.abstain and self.class_gradient is False:
            raise ValueError(
                'when "no prediction" pays is learned by the gradient of drawn classes alone: leave class_gradient '
                "out, or set abstain to False"
            )
        for control in self.controls:
            if control not in get_args(Control):
                raise ValueError(f"controls must be among {get_args(Control)}, got {control!r}")
        self._check_rivals()
        for arm, settings in self.arm_settings.items():
            if arm not in get_args(Looking):
                raise ValueError(f"arm_settings must be of arms among {get_args(Looking)}, got {arm!r}")
            self._check_arm_settings(arm, settings)
            self.for_arm(arm)

    def _check_arm_settings(self, arm: str, settings: Settings) -> None:
        if not isinstance(settings, dict):
            raise ValueError(f"arm_settings of {arm!r} must be settings by name, got {settings!r}")
        for name, value in settings.items():
            if name not in OF_AN_ARM and not name.startswith("policy."):
                raise ValueError(
                    f"arm_settings of {arm!r}: {name!r} is the same for all arms; its own may be policy.<field> "
                    f"and {', '.join(OF_AN_ARM)}"
                )
            usual = getattr(self.policy, name.removeprefix("policy."), None) if "." in name else getattr(self, name)
            kind = type(usual)
            if usual is not None and type(value) is not kind and (kind, type(value)) != (float, int):
                raise ValueError(
                    f"arm_settings of {arm!r}: {name} must be a {kind.__name__}, such as {usual!r}, got {value!r}"
                )

    def _check_rivals(self) -> None:
        soft = [control for control in self.controls if control in (*SOFT, "gumbel")]
        unordered = [control for control in self.controls if control in (*soft, "unlimited")]
        if self.policy.glimpse_order == "sequential" and unordered:
            raise ValueError(
                f"policy.glimpse_order 'sequential' is for m cells drawn by REINFORCE, and controls {unordered} learn "
                "without an order: leave them out, or train them in a run of their own"
            )
        if self.baseline == "value" and self.draws_classes and soft:
            raise ValueError(
                f"controls {soft} are learned by back-propagation, and their drawn classes have no baseline 'value': "
                "leave these controls out, or choose another baseline"
            )

    @property
    def draws_classes(self) -> bool:
        """Whether the class is drawn in training, and part of the policy gradient."""
        return bool(self.abstain) if self.class_gradient is None else self.class_gradient

    @property
    def arms(self) -> tuple[Looking, ...]:
        """The learned policy and its controls, in the order in which they are trained."""
        return ("learned", *self.controls)

    def abstains(self, source: ClipSource) -> bool:
        """Return whether "no prediction" may be said on a source."""
        return not source.trimmed if self.abstain is None else self.abstain

    def for_source(self, source: ClipSource) -> Config:
        """Return this configuration with what the training clips decide: updates, where they are given as epochs, and
        abstention.
        """
        updates = self.updates if self.epochs is None else math.ceil(self.epochs * source.num_clips / self.clips)
        return dataclasses.replace(self, updates=updates, epochs=None, abstain=self.abstains(source))

    def part(self, **changes: Any) -> Config:
        """Return the fields that every run has, without those of a command that adds its own, and with changes."""
        return Config(**({field.name: getattr(self, field.name) for field in dataclasses.fields(Config)} | changes))

    def tuned_by(self, path: Path | None) -> Self:
        """Return this configuration with the settings of arms in a file of agents.tune, or as it is without one."""
        if path is None:
            return self
        if not path.exists():
            raise FileNotFoundError(f"no tuned settings at {path}: agents.tune writes them, as settings.json")
        settings = read_json(path)
        if not isinstance(settings, dict):
            raise ValueError(f"{path} must hold settings by the name of an arm, got {settings!r}")
        return dataclasses.replace(self, arm_settings=settings)

    def with_settings(self, settings: Settings) -> Self:
        """Return this configuration with some of its fields changed.

        Raises:
            ValueError: there is no such field, or the settings do not go with the rest.
        """
        network, fields = dict[str, Any](), dict[str, Any]()
        for name, value in settings.items():
            (network if name.startswith("policy.") else fields)[name.removeprefix("policy.")] = value
        try:
            return dataclasses.replace(self, policy=dataclasses.replace(self.policy, **network), **fields)
        except TypeError as error:
            raise ValueError(f"settings {dict(settings)}: {error}") from error

    def for_arm(self, looking: str) -> Config:
        """Return the configuration of an arm alone, its own settings in place of the run's."""
        alone = self.part(controls=(), arm_settings={})
        return alone.with_settings(self.arm_settings.get(looking, {}))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Config:
        """Rebuild a configuration from a run's config.json."""
        return cls(**(fields | {"policy": PolicyConfig(**fields["policy"]), "controls": tuple(fields["controls"])}))


SomeConfig = TypeVar("SomeConfig", bound=Config)


def spelled(settings: Settings) -> str:
    """Return settings in a line."""
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in settings.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


PRESETS: dict[Preset, Config] = {
    "small": Config(),
    "features": Config(
        preset="features",
        observation="cube",
        policy=PolicyConfig(
            encoder="sum",
            unit_input=True,
            skip=True,
            frame_embedding=False,
            layers=1,
            hidden_size=256,
            dropout=0.7,
            input_dropout=0.3,
            scorer_size=16,
            scorer_dropout=0.3,
            repulsion=6.0,
        ),
        mirror=True,
        jitter=True,
        updates=160,
        warmup_updates=80,
        rollouts=2,
        learning_rate=1e-3,
        weight_decay=1e-5,
        scorer_weight_decay=1e-3,
        entropy_bonus=0.003,
        credit="terminal",
        reward="clip_log_score",
        random_share=0.5,
        validate_every=20,
    ),
    "paper": Config(
        preset="paper",
        observation="cube",
        policy=PolicyConfig(
            encoder="sum", slice_weights="softmax", frame_embedding=False, layers=3, hidden_size=512, dropout=0.5
        ),
        frames=30,
        epochs=10,
        warmup_updates=0,
        learning_rate=5e-4,
        scorer_learning_rate=5e-4,
        weight_decay=1e-5,
        penalty=1.0,
        credit="terminal",
    ),
}


def preset_for(source: str, preset: Preset | None) -> Config:
    """Return the defaults of `preset`, or those that fit the source."""
    name = preset or ("small" if source in EMBEDDED else "features")
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {get_args(Preset)}, got {name!r}")
    return dataclasses.replace(PRESETS[name], source=source)


@dataclass(frozen=True, kw_only=True)
class Arguments(Config):
    """Train a recurrent glimpse policy by REINFORCE and compare it with controls."""

    out: Path | None = None
    """Folder of the new run; by default one under runs/ named by source, seed and time."""
    resume: Path | None = None
    """Folder of a run to go on with, under its own configuration."""
    evaluate: Path | None = None
    """Folder of a finished run whose test episodes are to be played again."""
    evaluate_on: str | None = None
    """Source to play them on in place of the run's own, such as "lazy:STORE"."""
    sampled: bool = False
    """Draw the cells of these episodes as in training, in place of taking the likeliest."""
    tuned: Path | None = None
    """The settings.json in which agents.tune keeps what each arm learns best with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluate_on is not None and self.evaluate is None:
            raise ValueError(f"--evaluate-on {self.evaluate_on} is where a run is played again: add --evaluate RUN")
        if self.sampled and self.evaluate is None:
            raise ValueError("--sampled is how a run is played again: add --evaluate RUN")

    @property
    def config(self) -> Config:
        """The configuration without what only the command line knows."""
        return self.part().tuned_by(self.tuned)


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line of a training run."""
    return parse_as(Arguments, arguments)


def parse_as(kind: type[SomeConfig], arguments: Sequence[str] | None = None) -> SomeConfig:
    """Read a command line; the preset, or the source, sets the defaults that the flags override."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--preset", choices=get_args(Preset))
    early.add_argument("--source", default="synthetic")
    known, _ = early.parse_known_args(arguments)
    preset = preset_for(known.source, known.preset)
    defaults = kind(**{field.name: getattr(preset, field.name) for field in dataclasses.fields(Config)})
    return tyro.cli(kind, args=arguments, default=defaults)
