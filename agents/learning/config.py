"""Configuration of a training run: frozen dataclasses in blocks, and conversion to and from JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from glimpse_env import ClipSource
from glimpse_env.rules import FirstGlance, Matching, checked_jumps

from .checks import check_range, check_types
from .models import MODELS, ModelName, is_own

Baseline = Literal["leave_one_out", "none", "value"]
Credit = Literal["causal", "terminal"]
Encoder = Literal["sum", "what_and_where"]
GlimpseOrder = Literal["joint", "sequential"]
InView = Literal["glimpsed", "cube"]
Precision = Literal["float32", "bfloat16"]
Preset = Literal["small", "features", "attended", "paper"]
Reward = Literal["eq7", "frame_log_score", "clip_log_score"]
Scorer = Literal["grid", "memory"]
SliceWeights = Literal["uniform", "softmax", "attended"]
Choice = Literal["accuracy", "log_score", "mean_average_precision", "reward"]
VideoScore = Literal["mean", "last16", "mode"]
FREE_LOOKS_SHARE = 0.5  # of the updates; looks cost in the others
Settings = Mapping[str, Any]  # values by the name of a field, in whatever block it lies


@dataclass(frozen=True, kw_only=True)
class AdvancedTaskConfig:
    """Details of the task."""

    first_glance: FirstGlance = "whole"
    """First frame: seen "whole", or "none" of it, so that the agent has to search. Models that see all cells of every
    frame see it whole."""
    stride_seconds: float | None = None
    """Length from the start of one window to the start of the next, in seconds; half a window by default."""
    jumps: tuple[int, ...] | None = None
    """Numbers of frames to jump ahead, from which the agent chooses, such as 1 2 4 8. A single number is a fixed
    stride; by default every frame is observed."""
    frame_cost: float = 0.0
    """Reward taken off for each observed frame after the first."""

    def __post_init__(self) -> None:
        if self.jumps is not None:
            object.__setattr__(self, "jumps", checked_jumps(self.jumps))
        check_types(self)
        check_range(self, "stride_seconds", minimum=0, above=True)
        check_range(self, "frame_cost", minimum=0)


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Videos and rules of the task."""

    source: str = "synthetic"
    """Source of the clips: "synthetic", "synthetic-easy", "synthetic-untrimmed", the path of a feature store,
    "lazy:PATH" or "wall:FILE"."""
    fold: int = 1
    """Official split of the data set."""
    glimpses: int = 5
    """Number m of cells that are looked at in every frame after the first. "unlimited" starts near it."""
    frames: int | None = None
    """Number T of frames of an episode; the source's own by default."""
    window_seconds: float | None = None
    """Length of windows that slide over each video, instead of --frames; a video's scores are the mean over its
    windows."""
    abstain: bool | None = None
    """Add the class "no prediction" (True or False); by default only if clips are untrimmed."""
    matching: Matching = "frame"
    """Unit that the reward counts: the prediction at each "frame", or each run of equal predictions as a "segment"."""
    eta: float = 0.5
    """Weight of true against false positives in the reward (eq. 7)."""
    advanced: AdvancedTaskConfig = field(default_factory=AdvancedTaskConfig)

    def __post_init__(self) -> None:
        check_types(self)
        check_range(self, "fold", "glimpses", minimum=1)
        check_range(self, "eta", minimum=0, maximum=1)
        check_range(self, "window_seconds", minimum=0, above=True)
        if self.frames is not None and self.window_seconds is not None:
            raise ValueError(
                f"frames ({self.frames}) and window_seconds ({self.window_seconds}) both set T: give one of them "
                "(--frames None removes a preset's)"
            )
        if self.frames is not None and self.frames < 2:
            raise ValueError(f"frames must be at least 2, one to choose in and one to look at, got {self.frames}")


@dataclass(frozen=True, kw_only=True)
class AdvancedPolicyConfig:
    """Details of the network."""

    slice_weights: SliceWeights = "uniform"
    """Weights l of eq. 3 over the m cells: 1/m each ("uniform"), the "softmax" of the logits that chose them (REINFORCE
    only), or "attended": the softmax of the scores that the scorer "memory" gives their slices now. The cross-entropy
    trains these scores, also through the whole first frame. Soft attention, "mean" and "max" keep their own weights. On
    untrimmed clips the scorer "memory" adds an empty slice to the softmax, so the weights sum to less than 1, also in
    soft attention."""
    standardise: bool = True
    """Give every channel of a slice mean 0 and variance 1 over the training clips."""
    embedding_size: int = 64
    """Width of the what-and-where embedding; the plain sum keeps the depth D of the slices."""
    unit_input: bool = False
    """Scale every attended input to the length sqrt(width), since features of real frames differ widely in strength."""
    skip: bool = False
    """Let the class head see the attended input as well as the LSTM's state."""
    linear_finish: bool = False
    """After training, add logistic regression on the inputs X' of the class head to the class logits. Validation
    chooses its penalty, weighs the logits of both, and decides whether the sum replaces the network's own."""
    frame_embedding: bool = True
    """Add a learned vector for the frame's number to the LSTM's input."""
    input_dropout: float = 0.0
    """Share of the LSTM's inputs that are dropped, one mask for a whole episode."""
    projection_size: int = 32
    """Principal components of a slice that the scorer "grid" sees; narrower slices are seen as they are."""
    scorer: Scorer = "grid"
    """Input of the location logit of a cell: the slices in view at the cell and its neighbours, and its place ("grid"),
    or a memory of the cell ("memory"). The memory is a projected running mean of the slices seen there, with the age of
    the last one and, on untrimmed clips, its distance from earlier ones, if that is much larger than usual."""
    scorer_size: int = 32
    """Hidden units of the location logits."""
    scorer_dropout: float = 0.0
    """Share of the hidden units of the location logits that are dropped."""
    repulsion: float = 0.0
    """Initial strength with which the scorer "grid" avoids cells that were chosen before; it is learned."""
    glimpse_order: GlimpseOrder = "joint"
    """Draw the m cells of a frame from the same logits ("joint"), or let each drawn cell's slice move the query for the
    next one, the paper's jumps ("sequential")."""
    precision: Precision = "float32"
    """Number format of the network's products; weights, losses and the optimiser stay float32."""

    def __post_init__(self) -> None:
        check_types(self)
        check_range(self, "embedding_size", "projection_size", "scorer_size", minimum=1)
        check_range(self, "input_dropout", "scorer_dropout", minimum=0, maximum=1, below=True)
        if self.slice_weights == "attended" and self.scorer != "memory":
            raise ValueError(
                f"slice_weights 'attended' needs scores of single slices, and scorer {self.scorer!r} has none: set "
                "scorer 'memory', or slice_weights 'uniform' or 'softmax'"
            )


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The network."""

    observation: InView = "glimpsed"
    """Slices of a frame that the location logits may see: those chosen in it ("glimpsed"), or the whole "cube"."""
    encoder: Encoder = "what_and_where"
    """Slice encoder: the paper's weighted "sum" of slices (eq. 3), or "what_and_where", which first embeds each slice
    with its cell."""
    layers: int = 1
    """Layers of the LSTM."""
    hidden_size: int = 128
    """Units of each LSTM layer and of the tanh layer before the classes."""
    dropout: float = 0.0
    """Share of units dropped between LSTM layers and in the class head, one mask for a whole episode."""
    advanced: AdvancedPolicyConfig = field(default_factory=AdvancedPolicyConfig)

    def __post_init__(self) -> None:
        check_types(self)
        check_range(self, "layers", "hidden_size", minimum=1)
        check_range(self, "dropout", minimum=0, maximum=1, below=True)
        if self.advanced.scorer == "memory" and self.observation == "cube":
            raise ValueError(
                "scorer 'memory' holds what was looked at, and observation 'cube' shows every cell: set observation "
                "'glimpsed', or scorer 'grid'"
            )


@dataclass(frozen=True, kw_only=True)
class AdvancedTrainingConfig:
    """Details of training and evaluation."""

    scorer_learning_rate: float = 3e-3
    """Adam's learning rate for the location logits, decayed like --learning-rate."""
    scorer_weight_decay: float | None = None
    """Gamma of the location logits' parameters; --weight-decay by default."""
    max_grad_norm: float = 1.0
    """Norm to which three gradients are clipped, each by itself: those of the location and jump logits, of the learned
    values, and of all other weights."""
    entropy_bonus: float = 0.003
    """Weight of the entropy of the location logits; it falls linearly to 0 at the last update."""
    baseline: Baseline = "leave_one_out"
    """Baseline of a return: the mean of the clip's other rollouts, none, or a learned "value" of the LSTM's state."""
    class_gradient: bool | None = None
    """Draw the class in training and put its log-probability into the policy gradient (True or False); by default only
    with "no prediction" or segments, which need it."""
    classification_weight: float = 1.0
    """Weight of the cross-entropy after the warm-up, if classes are drawn; with --matching segment, once the reward
    counts segments. A small one leaves it to the reward when to predict."""
    random_share: float = 0.0
    """Share of the choices of cells in training that are random instead, for "reinforce", "unlimited" and "gumbel", so
    that the classifier does not depend on the policy's glimpses. The policy gradient leaves them out."""
    random_jumps: bool = False
    """Draw jumps at random instead of learning them, as a control; models that do not learn by REINFORCE always do."""
    jump_share: float = 0.5
    """Share of the updates, at the end, that use jumps. Before them, the smallest jump is taken everywhere, because
    looks are hard to learn while frames are left out. The first quarter of these updates draws jumps without learning
    them, so that looks and classes get used to gaps."""
    segment_share: float = 0.4
    """With --matching segment, share of the updates, at the end, whose reward counts segments. Until then it counts
    frames, which teaches looks and classes sooner."""
    look_cost: float = 0.0
    """Reward taken off for each look. "unlimited" learns where to look with free looks in the first half of the
    updates. Then its looks are trained on eq. 7 minus costs instead of --reward, whose log-scores have another unit."""
    jitter: bool = False
    """Train on random windows of clips that are longer than T."""
    mirror: bool = False
    """Mirror the grid left to right in half of the training episodes."""
    clips_at_once: int | None = None
    """Clips that go through an update's network at once, which bounds its memory; all of them by default. Soft
    attention always takes all."""
    video_score: VideoScore = "mean"
    """Score of an episode: the "mean" of its frames' softmaxes, the mean of the "last16", or the share of frames that
    predict a class ("mode")."""
    validate_every: int = 50
    """Updates between two passes over the validation split, which chooses the checkpoint."""
    chosen_by: Choice | None = None
    """Measure of the validation split that chooses the checkpoint. By default it is "reward" with --matching segment,
    --frame-cost or, for "unlimited", --look-cost. Otherwise it is "accuracy", or with --preset attended "log_score",
    which ranks checkpoints better on few clips, and "mean_average_precision" if the agent may abstain. The log-score
    breaks ties."""
    checkpoint_seconds: float = 60.0
    """Seconds between two saves; a kill loses at most this much training, and the update or validation in progress."""

    def __post_init__(self) -> None:
        check_types(self)
        check_range(self, "segment_share", "jump_share", minimum=0, maximum=1, above=True)
        check_range(self, "random_share", minimum=0, maximum=1, below=True)
        check_range(self, "scorer_learning_rate", "max_grad_norm", minimum=0, above=True)
        check_range(self, "scorer_weight_decay", "classification_weight", minimum=0)
        check_range(self, "entropy_bonus", "look_cost", "checkpoint_seconds", minimum=0)
        check_range(self, "clips_at_once", "validate_every", minimum=1)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Optimisation."""

    updates: int = 1000
    """Optimiser steps."""
    epochs: float | None = None
    """Passes over the training clips, instead of --updates."""
    warmup_share: float = 0.15
    """Share of the updates, at the start, that play random glimpses and train only the classifier."""
    clips: int = 32
    """Number B of clips in an update."""
    rollouts: int = 4
    """Number R of rollouts of each clip; at least 2 with the baseline "leave_one_out"."""
    learning_rate: float = 3e-3
    """Adam's learning rate; it falls linearly to a tenth over the last third of the updates."""
    weight_decay: float = 0.0
    """Gamma of eq. 8: the loss has gamma times the sum of all squared parameters."""
    penalty: float = 0.0
    """Weight lambda of the doubly stochastic attention penalty (eq. 8), which is on the expected attention."""
    credit: Credit = "causal"
    """Credit of a glimpse: the reward of predictions made after it ("causal"), or all of r_T, as in the paper
    ("terminal")."""
    reward: Reward = "frame_log_score"
    """Reward that looks are trained on: eq. 7, or the log-score of the label in every frame or over the whole clip. A
    log-score counts every gain in certainty, eq. 7 only answers. Segments, and looks of "unlimited" that have a cost,
    are always paid by eq. 7."""
    seed: int = 1
    """Seed of every random choice."""
    device: str = "cpu"
    """Device of the network: "cpu", "cuda" or "cuda:1"."""
    advanced: AdvancedTrainingConfig = field(default_factory=AdvancedTrainingConfig)

    def __post_init__(self) -> None:
        check_types(self)
        check_range(self, "epochs", "learning_rate", minimum=0, above=True)
        check_range(self, "updates", "clips", minimum=1)
        check_range(self, "warmup_share", minimum=0, maximum=1)
        check_range(self, "weight_decay", "penalty", "seed", minimum=0)
        needed = 2 if self.advanced.baseline == "leave_one_out" else 1
        if self.rollouts < needed:
            raise ValueError(
                f"rollouts must be at least {needed} with baseline {self.advanced.baseline!r}, got {self.rollouts}"
            )
        if self.reward == "clip_log_score" and self.credit == "causal":
            raise ValueError("reward 'clip_log_score' is one number for the whole clip: it needs credit 'terminal'")

    @property
    def warmup_updates(self) -> int:
        """Updates of the warm-up."""
        return round(self.warmup_share * self.updates)

    @property
    def segment_updates(self) -> int:
        """Updates at the end whose reward counts segments, with segment matching."""
        return max(1, round(self.advanced.segment_share * self.updates))

    @property
    def scorer_weight_decay(self) -> float:
        """Gamma of the location logits' parameters."""
        own = self.advanced.scorer_weight_decay
        return self.weight_decay if own is None else own


@dataclass(frozen=True, kw_only=True)
class Config:
    """One model, trained on one task."""

    preset: Preset = "small"
    """Defaults: "small" for synthetic clips, "attended" for stores and walls (both by default), "features" as tuned on
    J-HMDB, "paper" for the paper's choices."""
    model: Annotated[ModelName, tyro.conf.Suppress] = "reinforce"
    """Model that is trained."""
    task: TaskConfig = field(default_factory=TaskConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        check_types(self, but="model" if is_own(self.model) else None)
        model, advanced = MODELS[self.model], self.training.advanced
        for needs, setting, other in (
            (self.task.abstain, "abstain=True", "abstain=False"),
            (self.matches_segments, "matching='segment'", "matching='frame'"),
        ):
            if needs and advanced.class_gradient is False:
                raise ValueError(f"{setting} requires sampled classes: unset class_gradient, or set {other}")
        if advanced.baseline == "value" and self.samples_classes and (model.is_soft or model.learns == "gumbel"):
            raise ValueError(
                f"model {self.model!r} learns by back-propagation, and its sampled classes have no baseline 'value': "
                "choose another baseline, or leave the model out"
            )
        if self.matches_segments and advanced.baseline == "value" and advanced.segment_share < 1:
            raise ValueError(
                "baseline 'value' cannot learn two rewards, and with segment_share "
                f"{advanced.segment_share:g} frames count first: set segment_share 1, or another baseline"
            )
        if self.pays_for_looks and advanced.baseline == "value":
            raise ValueError(
                "baseline 'value' cannot learn two rewards, and looks that cost are free at first: set another "
                "baseline, or look_cost 0"
            )
        if self.task.advanced.jumps is not None:
            self._check_jumps()
        if self.policy.advanced.glimpse_order == "sequential" and model.learns and self.model != "reinforce":
            raise ValueError(
                f"glimpse_order 'sequential' needs m cells drawn by REINFORCE, and model {self.model!r} learns without "
                "an order: leave it out, or train it in a run of its own"
            )

    def _check_jumps(self) -> None:
        model = MODELS[self.model]
        if model.reads_all or model.learns == "gumbel":
            raise ValueError(f"jumps need a model that chooses cells by REINFORCE or a rule, got {self.model!r}")
        if model.learns and self.policy.observation == "cube":
            raise ValueError(
                "jumps need observation='glimpsed', got 'cube', which shows whole frames to choose cells in"
            )
        if self.training.advanced.baseline == "value":
            raise ValueError("jumps need the baseline 'leave_one_out' or 'none', got 'value'")

    @property
    def learns_jumps(self) -> bool:
        """Whether there are jumps to choose from, and REINFORCE learns to."""
        choices = len(self.task.advanced.jumps or ())
        learns = MODELS[self.model].learns == "reinforce" and not self.training.advanced.random_jumps
        return choices > 1 and learns

    @property
    def pays_for_looks(self) -> bool:
        """Whether the number of looks is learned, and each has a cost."""
        return MODELS[self.model].sees == "set" and self.training.advanced.look_cost > 0

    @property
    def reward_of_looks(self) -> Reward:
        """Reward that looks are trained on."""
        return "eq7" if self.pays_for_looks else self.training.reward

    @property
    def samples_classes(self) -> bool:
        """Whether the class is sampled in training, and part of the policy gradient."""
        own = self.training.advanced.class_gradient
        return bool(self.task.abstain) or self.matches_segments if own is None else own

    @property
    def chosen_by(self) -> Choice:
        """Measure of the validation split that chooses the checkpoint."""
        by_reward = self.matches_segments or self.task.advanced.frame_cost > 0 or self.pays_for_looks
        by_default: Choice = "accuracy"
        if self.preset == "attended":
            by_default = "mean_average_precision" if self.task.abstain else "log_score"
        return self.training.advanced.chosen_by or ("reward" if by_reward else by_default)

    @property
    def matches_segments(self) -> bool:
        """Whether the reward counts segments instead of frames."""
        return self.task.matching == "segment"

    def of_update(self, update: int) -> Config:
        """Return the configuration that an update trains with.

        With segment matching, the reward counts frames until the last `segment_share` of the updates. Then it counts
        segments, by eq. 7. Classes are drawn from the start. Looks that cost are free in the first half of the updates,
        on the reward of free looks: until looks are learned, they are not worth their cost.
        """
        updates = self.training.updates
        if self.pays_for_looks and update < min(FREE_LOOKS_SHARE * updates, updates - 1):
            return self.with_settings({"look_cost": 0.0}).of_update(update)
        if not self.matches_segments:
            return self
        if update >= self.training.updates - self.training.segment_updates:
            return self.with_settings({"reward": "eq7"})
        return self.with_settings({"matching": "frame", "class_gradient": True, "classification_weight": 1.0})

    def abstains(self, source: ClipSource) -> bool:
        """Return whether the agent may answer "no prediction" on a source."""
        return not source.trimmed if self.task.abstain is None else self.task.abstain

    def for_source(self, source: ClipSource) -> Config:
        """Return this configuration with the values that follow from the training clips: updates and abstention."""
        training = self.training
        updates = training.updates
        if training.epochs is not None:
            updates = math.ceil(training.epochs * source.num_clips / training.clips)
        return self.with_settings({"updates": updates, "epochs": None, "abstain": self.abstains(source)})

    def setting(self, name: str) -> Any:
        """Return the value of a field by its name alone, in whatever block it lies."""
        value: Any = self
        for part in _path_of(name):
            value = getattr(value, part)
        return value

    def with_settings(self, settings: Settings) -> Config:
        """Return this configuration with some fields changed, each by its name alone, in whatever block it lies.

        Raises:
            ValueError: there is no such field, or the values are not allowed.
        """
        changes: dict[str, Any] = {}
        for name, value in settings.items():
            *blocks, leaf = _path_of(name)
            inner = changes
            for block in blocks:
                inner = inner.setdefault(block, {})
            inner[leaf] = value
        changed: Config = _replace(self, changes)
        return changed

    def to_json(self) -> dict[str, Any]:
        """Return the value that `from_json` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Config:
        """Rebuild a configuration from a run's config.json.

        Raises:
            ValueError: a field is unknown or its value is not allowed, as in a file of another version.
        """
        config: Config = _build(cls, fields)
        return config


BLOCKS: dict[type, dict[str, type]] = {
    Config: {"task": TaskConfig, "policy": PolicyConfig, "training": TrainingConfig},
    TaskConfig: {"advanced": AdvancedTaskConfig},
    PolicyConfig: {"advanced": AdvancedPolicyConfig},
    TrainingConfig: {"advanced": AdvancedTrainingConfig},
}


def _paths(kind: Any = Config) -> Iterator[tuple[str, ...]]:
    for entry in dataclasses.fields(kind):
        block = BLOCKS.get(kind, {}).get(entry.name)
        if block is None:
            yield (entry.name,)
        else:
            yield from ((entry.name, *path) for path in _paths(block))


PATHS = {path[-1]: path for path in _paths()}  # a test holds that no name stands in two blocks


def _path_of(name: str) -> tuple[str, ...]:
    if name not in PATHS:
        raise ValueError(f"no setting {name!r}: it must be one of {', '.join(sorted(PATHS))}")
    return PATHS[name]


def _replace(block: Any, changes: dict[str, Any]) -> Any:
    """Return a block with changes, those of inner blocks as dictionaries."""
    inner = BLOCKS.get(type(block), {})
    values = {
        name: _replace(getattr(block, name), value) if name in inner else value for name, value in changes.items()
    }
    return dataclasses.replace(block, **values)


def _build(kind: Any, fields: dict[str, Any]) -> Any:
    known = {entry.name for entry in dataclasses.fields(kind)}
    if not isinstance(fields, dict) or fields.keys() != known:
        differing = sorted(known ^ fields.keys()) if isinstance(fields, dict) else [repr(fields)]
        raise ValueError(f"the configuration differs from this version's in {', '.join(differing)}")
    inner = BLOCKS.get(kind, {})
    return kind(**{name: _build(inner[name], value) if name in inner else value for name, value in fields.items()})


def format_settings(settings: Settings) -> str:
    """Return settings in one line."""
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in settings.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
