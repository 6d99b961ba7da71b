"""Train where to look and what to say, together, by REINFORCE (Wang et al., ISCAS 2017), and compare with controls.

    python agents/reinforce.py                                    # the embedded synthetic source
    python agents/reinforce.py --source STORE --glimpses 1        # real features, written by glimpse_env.extract
    python agents/reinforce.py --resume RUN                       # go on after an interruption
    torchrun --nproc-per-node 2 agents/reinforce.py               # share every update between two processes

The learned policy and each control are trained alike, one after the other; validation chooses each one's checkpoint,
and the test split is played once with it. Where several processes share the updates, the first of them validates,
tests, logs, saves and prints. SIGTERM and SIGINT are obeyed after the update, or the test, that is under way.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # python agents/reinforce.py
    sys.path[0], __package__ = str(Path(__file__).resolve().parents[1]), "agents"

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from glimpse_env import ClipSource, VideoGlimpseVectorEnv
from glimpse_env.video.backbones import DeviceError
from glimpse_env.video.decode import VideoError

from .learning.config import Arguments, Config, parse_arguments
from .learning.objective import Advantages, glimpse_losses, phase_of_update, soft_losses
from .learning.policy import DropoutMasks
from .parallel.ranks import (
    RankLostError,
    average_gradients,
    current_share,
    from_first,
    joined,
    largest_over_ranks,
    local_rank,
    mean_scalars,
    together,
)
from .pictures.strips import save_film_strip
from .playing.envs import (
    Sources,
    check_device,
    check_playable,
    describe_source,
    greedy_manner,
    make_envs,
    make_policy,
    open_splits,
    sample_slices,
)
from .playing.evaluation import Evaluation, evaluate, middle_clips
from .playing.rollout import HARD, SEES_EVERYTHING, SOFT, GlimpseRollout, Looking, Manner, Rollout, collect_rollout
from .playing.soft import play_softly
from .runs.folder import Checkpoints, MetricsLog, SaveError, provenance, read_json, write_json
from .runs.results import (
    EVALUATION_ENVS,
    VALIDATION_SEED,
    arm_folder,
    arms_on_disk,
    best_policy,
    evaluate_run,
    summarise,
    table,
)
from .runs.signals import Interruption, StoppedError


def clips_of_update(num_clips: int, config: Config, update: int) -> NDArray[np.int64]:
    """Return the (B,) clips of an update: epoch after epoch, each in an order of its own drawn from the run's seed."""
    positions = np.arange(update * config.clips, (update + 1) * config.clips)
    orders = {
        epoch: np.random.default_rng([config.seed, epoch]).permutation(num_clips)
        for epoch in np.unique(positions // num_clips).tolist()
    }
    return np.array(
        [orders[epoch][place] for epoch, place in zip(positions // num_clips, positions % num_clips, strict=True)]
    )


def seed_of_update(config: Config, update: int) -> int:
    """Return the seed of all that is drawn in an update, so that a resumed run draws what the unbroken one does."""
    return int(np.random.SeedSequence([config.seed, update]).generate_state(1)[0])


class Arm:
    """One way of looking and the network trained on it: what is saved, resumed and measured.

    Args:
        config: of the run; the arm's own settings in it are taken.
        looking: how this arm chooses cells.
        folder: where its files go.
        sources: the three splits.
    """

    def __init__(self, config: Config, looking: Looking, folder: Path, sources: Sources) -> None:
        self.config = config = config.for_arm(looking)
        self.looking, self.folder, self.sources = looking, folder, sources
        self.checkpoints = Checkpoints(folder)
        self.share = current_share()
        self.policy = make_policy(config, sources["train"], looking)
        if config.policy.projection_size < sources["train"].depth:
            self.policy.fit_components(sample_slices(sources["train"]))
        self.policy.load_state_dict(from_first(self.policy.state_dict))  # machines differ in the last digits
        self.policy.to(config.device)
        scorer = self.policy.scorer_parameters()
        own = {id(parameter) for parameter in scorer}
        rest = [parameter for parameter in self.policy.parameters() if id(parameter) not in own]
        groups = [
            {"params": rest, "lr": config.learning_rate, "weight_decay": config.weight_decay},
            {"params": scorer, "lr": config.scorer_learning_rate, "weight_decay": config.scorer_weight_decay},
        ]
        self.optimizer = torch.optim.Adam(groups)
        self.episodes = range(config.clips * config.rollouts)[self.share.of(config.clips * config.rollouts)]
        self.envs = make_envs(config, sources["train"], len(self.episodes), train=True, looking=looking)
        self.validation_envs = make_envs(config, sources["validation"], EVALUATION_ENVS, train=False, looking=looking)
        self.update, self.seconds, self.best_score, self.best_update = 0, 0.0, -1.0, 0
        self.trained_by: str | None = provenance()["git_commit"]

    def train(self) -> None:
        """Run the updates that are left, validating, logging and saving on the way.

        Raises:
            StoppedError: SIGTERM or SIGINT came; the update under way was finished and saved.
            FloatingPointError: a loss or gradient is not finite.
            SaveError: a file could not be written.
        """
        self._resume()
        started, saved = time.perf_counter() - self.seconds, time.perf_counter()
        first = self.share.is_first
        bar = tqdm(
            total=self.config.updates,
            initial=self.update,
            desc=self.looking,
            unit="update",
            disable=None if first else True,
        )
        with ExitStack() as stack, bar, Interruption() as interruption:
            log = stack.enter_context(closing(MetricsLog(self.folder, self.update))) if first else None
            while self.update < self.config.updates:
                scalars = self._train_once()
                self.update += 1
                if self._is_due() or self.update % 10 == 0:
                    scalars = mean_scalars(scalars)
                if self._is_due():
                    scalars |= from_first(self._validate)
                self.seconds = time.perf_counter() - started
                if bar.disable and first and self._is_due():
                    print(_progress_line(self.looking, self.update, self.config.updates, scalars), flush=True)
                if log is not None and (self._is_due() or self.update % 10 == 0):
                    log.write(self.update, scalars | {"time/seconds": self.seconds})
                    bar.set_postfix({name.split("/")[1]: f"{scalars[name]:.3f}" for name in _SHOWN if name in scalars})
                bar.update()
                signum = largest_over_ranks(interruption.signum)
                # Whether the others' clocks agree with the first one's does not matter: it is the one that saves.
                if self._is_due() or signum or time.perf_counter() - saved > self.config.checkpoint_seconds:
                    self._save()
                    saved = time.perf_counter()
                if signum:
                    from_first(lambda: None)  # none leaves before the state is saved
                    raise StoppedError(signum, f"update {self.update}")

    def test(self) -> Evaluation:
        """Play the test split with the checkpoint that validation chose."""
        self.policy.load_state_dict(self.checkpoints.load_best())
        envs = make_envs(self.config, self.sources["test"], EVALUATION_ENVS, train=False, looking=self.looking)
        return self._evaluate(envs, seed=self.config.seed)

    def validate(self) -> Evaluation:
        """Play the validation split with the checkpoint that it chose."""
        self.policy.load_state_dict(self.checkpoints.load_best())
        return self._evaluate(self.validation_envs, seed=VALIDATION_SEED)

    def _train_once(self) -> dict[str, float]:
        """Make one update, and return what is logged of it."""
        config, manner = self.config, self._manner()
        together = manner.mirrored_together
        seed = seed_of_update(config, self.update)
        generator = torch.Generator(config.device).manual_seed(seed)
        clips = clips_of_update(self.envs.num_clips, config, self.update)
        clips = clips[self.share.of(config.clips)].repeat(config.rollouts)
        masks = self.policy.draw_masks(len(clips) // together, generator, self.share).repeated(together)
        windows = [seed + episode // together for episode in self.episodes]
        drawn: Any = {"generator": generator, "masks": masks, "seed": windows, "share": self.share}
        self.optimizer.zero_grad(set_to_none=True)
        rollout: Rollout
        if manner.looking in (*SOFT, "gumbel"):
            rollout = play_softly(self.envs, self.policy, clips, manner, **drawn)
            losses = soft_losses(rollout, Advantages.of(rollout, config), config, update=self.update)
            losses.total.backward()  # type: ignore[no-untyped-call]
            scalars = losses.scalars()
        else:
            rollout = played = collect_rollout(self.envs, self.policy, clips, manner, **drawn)
            scalars = self._backward(played, masks)
        scalars["train/gradient_norm"] = self._step(scalars["train/total"], clips)
        scalars["train/accuracy"] = float(rollout.is_correct.float().mean())
        if (hits := rollout.hits()) is not None and self.looking not in SEES_EVERYTHING:
            scalars["train/focus"] = float(hits.any(2).float().mean())
        if self.looking == "unlimited":
            scalars["train/glimpses_per_frame"] = float(rollout.looked.float().sum(2).mean())
        return scalars

    def _manner(self) -> Manner:
        """Return how the episodes of the update are played: those who learn to choose cells warm up at random."""
        config = self.config
        warming_up = self.looking in HARD and phase_of_update(config, self.update) == "warmup"
        learning = self.looking in HARD and not warming_up
        return Manner(
            looking="random" if warming_up else self.looking,
            in_view=config.observation,
            sample_classes=config.draws_classes,
            mirror=config.mirror,
            # Rollouts that are each other's baseline see the same: what differs in their returns is where they looked.
            mirrored_together=config.rollouts if learning else 1,
            random_share=config.random_share if learning else 0.0,
        )

    def _backward(self, rollout: GlimpseRollout, masks: DropoutMasks) -> dict[str, float]:
        """Add up the gradient over parts of the episodes, and return the means of their losses."""
        config, episodes = self.config, len(rollout.clips)
        size = min(episodes, (config.clips_at_once or config.clips) * config.rollouts)
        advantages = Advantages.of(rollout, config)
        scalars: dict[str, float] = {}
        for start in range(0, episodes, size):
            rows = slice(start, min(start + size, episodes))
            share = (rows.stop - rows.start) / episodes
            losses = glimpse_losses(
                self.policy, rollout.part(rows), masks.part(rows), advantages.part(rows), config,
                update=self.update, looking=self.looking,
            )  # fmt: skip
            (losses.total * share).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.scalars().items():
                scalars[name] = scalars.get(name, 0.0) + share * value
        return scalars

    def _step(self, loss: float, clips: NDArray[np.int64]) -> float:
        """Take a step along the gradient and return its norm."""
        config = self.config
        decay = min(1.0, 0.1 + 0.9 * 3 * (1 - self.update / config.updates))
        for group, rate in zip(
            self.optimizer.param_groups, (config.learning_rate, config.scorer_learning_rate), strict=True
        ):
            group["lr"] = rate * decay
        parameters = list(self.policy.parameters())
        if self.share.ranks > 1:  # the rank that has the clips tells them: in the mean they would be everyone's
            gradients = [weight.grad.flatten() for weight in parameters if weight.grad is not None]
            with together():
                self._require_finite(loss, torch.cat(gradients).norm(), clips)
            average_gradients(parameters)
        # The error of the values may be large, and is not to shrink the policy's step.
        critic = self.policy.value_parameters()
        critics = {id(parameter) for parameter in critic}
        actor = [parameter for parameter in parameters if id(parameter) not in critics]
        torch.nn.utils.clip_grad_norm_(critic, config.max_grad_norm)
        norm = torch.nn.utils.clip_grad_norm_(actor, config.max_grad_norm)
        self._require_finite(loss, norm, clips)
        self.optimizer.step()
        return float(norm)

    def _require_finite(self, loss: float, norm: Tensor, clips: NDArray[np.int64]) -> None:
        values = {"loss": loss, "gradient": float(norm)}
        for name, value in values.items():
            if not np.isfinite(value):
                names = [self.envs.source.clip_id(clip) for clip in np.unique(clips).tolist()]
                kept = f"the last good state is in {self.checkpoints.last}"
                raise FloatingPointError(
                    f"the {name} of update {self.update} is not finite, on clips {names}: lower the learning rate, or "
                    f"look at these clips; {kept if self.checkpoints.last.exists() else 'nothing was saved yet'}"
                )

    def _is_due(self) -> bool:
        """Say whether the update just made ends a stretch that validation looks at.

        The warm-up is not worth a look; arms that have none wait as long, so that all choose among as many checkpoints.
        """
        due = self.update % self.config.validate_every == 0 and self.update > self.config.warmup_updates
        return due or self.update == self.config.updates

    def _evaluate(self, envs: VideoGlimpseVectorEnv, *, seed: int) -> Evaluation:
        manner = greedy_manner(self.config, self.looking)
        return evaluate(envs, self.policy.eval(), manner, seed=seed, video_score=self.config.video_score)

    def _validate(self) -> dict[str, float]:
        measured = self._evaluate(self.validation_envs, seed=VALIDATION_SEED)
        self.policy.train()
        if measured.accuracy > self.best_score:
            self.best_score, self.best_update = measured.accuracy, self.update
            self.checkpoints.save_best(self.policy.state_dict())
        scalars = {
            "eval/accuracy": measured.accuracy,
            "eval/vote_accuracy": measured.vote_accuracy,
            "eval/reward": measured.reward,
        }
        return scalars | ({} if measured.focus is None else {"eval/focus": measured.focus})

    def _save(self) -> None:
        if not self.share.is_first:
            return
        self.checkpoints.save_last(
            {
                "policy": self.policy.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "update": self.update,
                "seconds": self.seconds,
                "best_score": self.best_score,
                "best_update": self.best_update,
                "git_commit": self.trained_by,
            }
        )

    def _resume(self) -> None:
        state = from_first(self.checkpoints.load_last)
        if state is None:
            return
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.update, self.seconds = state["update"], state["seconds"]
        self.best_score, self.best_update = state["best_score"], state["best_update"]
        earlier = state.get("git_commit")
        if self.update == self.config.updates:
            self.trained_by = earlier
        elif earlier is not None:
            commits = dict.fromkeys([*earlier.split(", "), str(self.trained_by)])
            self.trained_by = ", ".join(commits)


def _progress_line(looking: Looking, update: int, updates: int, scalars: dict[str, float]) -> str:
    """Say without a terminal what the progress bar says on one."""
    shown = "  ".join(f"{name} {scalars[name]:.3f}" for name in _SHOWN if name in scalars)
    return f"{looking} {update}/{updates}  {shown}"


_SHOWN = ("train/classification", "train/accuracy", "train/reward", "train/focus", "eval/accuracy")


def train(config: Config, out: Path) -> dict[str, Any]:
    """Train the learned policy and its controls into the folder `out`, or finish what was begun there.

    Returns:
        what result.json holds: by name of arm, `accuracy`, `top3`, `mean_average_precision`, `hit_at_3`,
        `vote_accuracy`, `focus` and `focus_per_look` on the test split; and `glimpses_per_frame`, `test_clips`,
        `train_seconds` of the learned policy, and `seed`; with sliding windows also `test_windows`.

    Raises:
        ValueError: the configuration cannot be played; the folder belongs to a run of another configuration.
        StoppedError: SIGTERM or SIGINT came; what is there can be gone on with.
        RankLostError: another process that shares the run has stopped.
    """
    with joined() as share, Interruption() as interruption:
        with together():
            check_device(config.device, share)
            share.of(config.clips)
            sources = open_splits(config)
            config = config.for_source(sources["train"])
            check_playable(config, sources["train"])
            if share.is_first:
                _claim_folder(config, out, sources["train"])
        measured: dict[str, Any] = {}
        for looking in config.arms:
            measured[looking] = _finish_arm(config, looking, arm_folder(out, looking), sources)
            if signum := largest_over_ranks(interruption.signum):
                raise StoppedError(signum, f"arm {looking!r} was tested")
        result = from_first(lambda: _conclude(config, out, sources, measured))
        interruption.signum = 0  # there is nothing left to stop
        return result


def _conclude(config: Config, out: Path, sources: Sources, measured: dict[str, Any]) -> dict[str, Any]:
    for looking in arms_on_disk(out):  # what an earlier call trained here stays in the comparison
        if looking not in measured:
            measured[looking] = read_json(arm_folder(out, looking) / "evaluation.json")
    result = summarise(config, measured, sources["test"])
    save_examples(config, out, sources, measured["learned"]["test"]["correct"])
    write_json(out / "result.json", result)
    return result


def _claim_folder(config: Config, out: Path, source: ClipSource) -> None:
    """Write what the run is told, or check that it is what the folder's run was; only controls may be added, with
    settings of their own.
    """
    path = out / "config.json"
    if not path.exists():
        write_json(path, {"config": _as_json(config)} | provenance() | {"source": describe_source(config, source)})
        return
    written = read_json(path)
    earlier = Config.from_json(written["config"])  # what was added to the configuration since was at its default
    shared = [arm for arm in config.arms if arm in earlier.arms]
    if _alone(earlier) != _alone(config) or any(earlier.for_arm(arm) != config.for_arm(arm) for arm in shared):
        raise ValueError(f"{out} holds a run of another configuration: choose another --out, or go on with --resume")
    if added := [name for name in config.controls if name not in earlier.controls]:
        # The settings of an arm are those of the call that first trained it.
        trained_by = dict.fromkeys(added, config) | dict.fromkeys(earlier.arms, earlier)
        settings = {arm: by.arm_settings[arm] for arm, by in trained_by.items() if arm in by.arm_settings}
        merged = {"controls": [*earlier.controls, *added], "arm_settings": settings}
        write_json(path, written | {"config": _as_json(earlier) | merged})


def _alone(config: Config) -> Config:
    """Return what all arms of a run have in common."""
    return dataclasses.replace(config, controls=(), arm_settings={})


def _as_json(config: Config) -> dict[str, Any]:
    return config.to_json() | {"controls": list(config.controls)}


def _finish_arm(config: Config, looking: Looking, folder: Path, sources: Sources) -> dict[str, Any]:
    path = folder / "evaluation.json"
    finished: dict[str, Any] | None = from_first(lambda: read_json(path) if path.exists() else None)
    if finished is not None:
        return finished
    arm = Arm(config, looking, folder, sources)
    arm.train()
    return from_first(lambda: _measure(arm, path))


def _measure(arm: Arm, path: Path) -> dict[str, Any]:
    measured = {
        "test": dataclasses.asdict(arm.test()),
        "validation_accuracy": arm.best_score,
        "best_update": arm.best_update,
        "train_seconds": arm.seconds,
        # An arm may be added to a run later than it was begun, and be tested again later than it was trained.
        "git_commit": arm.trained_by,
        "tested_by": provenance()["git_commit"],
    }
    write_json(path, measured)
    written: dict[str, Any] = read_json(path)
    return written


def example_clips(source: ClipSource, correct: list[bool]) -> list[int]:
    """Return the first two videos that are `correct` and the first two that are not, by their middle windows where
    windows slide over them.
    """
    right, wrong = np.flatnonzero(correct)[:2], np.flatnonzero(~np.asarray(correct))[:2]
    clips: list[int] = middle_clips(source)[np.concatenate([right, wrong])].tolist()
    return clips


def save_examples(config: Config, out: Path, sources: Sources, correct: list[bool]) -> None:
    """Draw the first two videos of the test split that the policy gets right and the first two that it gets wrong."""
    clips = example_clips(sources["test"], correct)
    envs = make_envs(config, sources["test"], len(clips), train=False)
    policy = best_policy(config, out, sources["train"])
    save_film_strip(out / "glimpses.png", envs, policy, clips, greedy_manner(config), seed=VALIDATION_SEED)


def default_folder(config: Config) -> Path:
    """Name a new run's folder by source, seed and time."""
    return Path("runs") / f"{Path(config.source).name}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def main(arguments: Arguments) -> None:
    """Do what the command line asks; of several processes the first one speaks."""
    with joined() as share:
        if arguments.evaluate is not None:
            if share.is_first:
                again = evaluate_run(arguments.evaluate, source=arguments.evaluate_on, sampled=arguments.sampled)
                print(table(again))
            return
        with together():
            config, out = _asked(arguments)
        out = from_first(lambda: out)  # named by the time
        if share.is_first:
            if arguments.resume is not None:
                print("going on under the run's own configuration; other flags are ignored")
            print(f"preset {config.preset}: {config.policy}\nwriting to {out}")
        try:
            result = train(config, out)
        except StoppedError as stopped:
            with together():  # torchrun ends the others as soon as one has left
                if share.is_first:
                    print(f"{stopped}: go on with --resume {out}", file=sys.stderr, flush=True)
            raise SystemExit(128 + stopped.signum) from stopped
        if share.is_first:
            seconds = result["train_seconds"]
            print(table(result))
            print(f"trained the policy in {seconds:.0f} s; wrote {out}/result.json, glimpses.png and checkpoints")


def _asked(arguments: Arguments) -> tuple[Config, Path]:
    if arguments.resume is not None:
        return Config.from_json(read_json(arguments.resume / "config.json")["config"]), arguments.resume
    return arguments.config, arguments.out or default_folder(arguments.config)


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except RankLostError as error:
        # The process that stopped has told why; of the others one is enough to say that they go with it.
        sys.exit(f"error: {error}: go on with --resume" if local_rank() == 0 else 1)
    except (ValueError, FileNotFoundError, FloatingPointError, SaveError, VideoError, DeviceError) as error:
        sys.exit(f"error: {error}")
