"""Train glimpse policies: where to look and which class to predict, together, by REINFORCE (Wang et al., ISCAS 2017).

    python agents/reinforce.py                                       # REINFORCE and random glimpses, synthetic source
    python agents/reinforce.py --source STORE --models reinforce soft random --glimpses 1
    python agents/reinforce.py --resume RUN                          # after an interruption
    torchrun --nproc-per-node 2 agents/reinforce.py                  # two processes share every update

Each model is trained in the same way, one after the other, into OUT/<model>. Validation chooses its checkpoint, and the
test split is played once with it. If several processes share the updates, the first one validates, tests, logs, saves
and prints. SIGTERM and Ctrl-C stop after the current update; a second signal stops at once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

if __name__ == "__main__" and not __package__:  # python agents/reinforce.py
    sys.path[0], __package__ = str(Path(__file__).resolve().parents[1]), "agents"

import numpy as np

from .learning.config import Config
from .learning.credit import Advantages
from .learning.episodes import DropoutMasks, GlimpseRollout, Rollout
from .learning.losses import glimpse_losses, is_warmup, jumps_of_update, soft_losses
from .learning.models import MODELS
from .learning.optimise import clips_of_update, seed_of_update, take_step
from .parallel.noise import Noise
from .parallel.ranks import (
    from_first,
    join_ranks,
    largest_over_ranks,
    mean_scalars,
    raise_together,
)
from .pictures.strips import save_examples
from .playing.envs import (
    SourceRecord,
    Sources,
    greedy_play,
    in_windows,
    name_of,
    open_splits,
    ready_config,
)
from .playing.evaluation import play_split
from .playing.linear import MAX_FRAMES
from .playing.players import PlaySettings
from .playing.rollout import collect_rollout
from .runs.command import CommandLine, parse_command, run_command
from .runs.folder import MetricsLog, RunFolder, RunResult, find_run
from .runs.jobs import Job, default_folder, evaluate_again, jobs_of_models, resumed_jobs, train_all
from .runs.progress import Progress
from .runs.signals import Interruption, StoppedError
from .runs.trainer import Trainer
from .tables.comparison import results_table

# ---- the algorithm: one update


def play_settings(config: Config, update: int) -> PlaySettings:
    """Return the play settings of an update; models that learn to choose cells warm up with random ones."""
    model, advanced = MODELS[config.model], config.training.advanced
    warms_up = model.looks_ahead and is_warmup(config, update)
    learns = model.looks_ahead and not warms_up
    return PlaySettings(
        model=MODELS["random"] if warms_up else model,
        in_view=config.policy.observation,
        sample_classes=config.samples_classes,
        mirror=advanced.mirror,
        # Rollouts that are each other's baseline see the same video, so their returns differ by the looks alone.
        mirrored_together=config.training.rollouts if learns else 1,
        random_share=advanced.random_share if learns else 0.0,
        smallest_jumps=jumps_of_update(config, update) == "smallest",
    )


def collect(trainer: Trainer) -> tuple[Rollout, DropoutMasks]:
    """Play the episodes of the next update: B clips, R rollouts of each."""
    config, update, share = trainer.stage, trainer.num_updates, trainer.share
    settings, seed = play_settings(config, update), seed_of_update(config, update)
    noise, together = Noise.seeded(seed, config.training.device, share), settings.mirrored_together
    clips = clips_of_update(trainer.envs.num_clips, config, update)[share.of(config.training.clips)]
    clips = clips.repeat(config.training.rollouts)  # (B * R,)
    masks = trainer.policy.draw_masks(len(clips) // together, noise).repeated(together)
    windows = [seed + episode // together for episode in trainer.episodes]
    return collect_rollout(trainer.envs, trainer.policy, clips, settings, noise=noise, masks=masks, seed=windows), masks


def update(trainer: Trainer, rollout: Rollout, masks: DropoutMasks) -> dict[str, float]:
    """Take one optimiser step on eq. 8, and return the scalars to log."""
    config, model = trainer.stage, MODELS[trainer.config.model]
    trainer.optimizer.zero_grad(set_to_none=True)
    advantages = Advantages.of(rollout, config)
    if isinstance(rollout, GlimpseRollout):
        scalars = backward(trainer, rollout, masks, advantages)
    else:
        losses = soft_losses(rollout, advantages, config, update=trainer.num_updates)
        losses.total.backward()  # type: ignore[no-untyped-call]
        scalars = losses.scalars()
    scalars["train/gradient_norm"] = take_step(
        trainer.policy, trainer.optimizer, config, update=trainer.num_updates, loss=scalars["train/total"],
        share=trainer.share, clip_names=lambda: clip_names(trainer, rollout),
    )  # fmt: skip
    scalars["train/accuracy"] = float(rollout.is_correct.float().mean())
    if (hits := rollout.hits()) is not None and model.sees != "all":
        scalars["train/focus"] = float(hits.any(2).sum() / rollout.observed()[:, 1:].sum().clamp_min(1))
    if rollout.steps is not None:
        scalars["train/frames_observed"] = float(rollout.observed().sum(1).float().mean())
    if model.sees == "set":
        scalars["train/glimpses_per_frame"] = float(rollout.looked.float().sum(2).mean())
    return scalars


def backward(
    trainer: Trainer, rollout: GlimpseRollout, masks: DropoutMasks, advantages: Advantages
) -> dict[str, float]:
    """Sum the gradient over parts of the episodes, and return the means of their losses."""
    config, episodes = trainer.stage, len(rollout.clips)
    training = config.training
    size = min(episodes, (training.advanced.clips_at_once or training.clips) * training.rollouts)
    scalars: dict[str, float] = {}
    for start in range(0, episodes, size):
        rows = slice(start, min(start + size, episodes))
        part, weight = rollout.rows(rows), (rows.stop - rows.start) / episodes
        losses = glimpse_losses(
            trainer.policy, part, masks.rows(rows), advantages.rows(rows), config, update=trainer.num_updates
        )
        (losses.total * weight).backward()  # type: ignore[no-untyped-call]
        for name, value in losses.scalars().items():
            scalars[name] = scalars.get(name, 0.0) + weight * value
    return scalars


def clip_names(trainer: Trainer, rollout: Rollout) -> str:
    """Return the names of a rollout's clips."""
    return ", ".join(trainer.envs.source.clip_id(clip) for clip in np.unique(rollout.clips).tolist())


# ---- driving it


def fit(trainer: Trainer, run: RunFolder, interruption: Interruption, progress: Progress) -> None:
    """Run the remaining updates; validate, log and save on the way.

    Raises:
        StoppedError: a signal came; the current update was finished and saved.
        FloatingPointError: a loss or gradient is not finite.
        SaveError: a file could not be written.
    """
    config, updates, first = trainer.config, trainer.config.training.updates, trainer.share.is_first
    trainer.load_state(from_first(run.load_last))
    progress.skip(min(trainer.num_updates, updates))
    started, saved = time.perf_counter() - trainer.seconds, time.perf_counter()
    with ExitStack() as stack:
        log = stack.enter_context(closing(MetricsLog(run, trainer.num_updates))) if first else None
        while trainer.num_updates < updates:
            if signum := largest_over_ranks(interruption.signum):
                from_first(lambda: run.save_last(trainer.state()))  # no rank leaves before the state is saved
                raise StoppedError(signum, f"update {trainer.num_updates} of {config.model}")
            scalars = update(trainer, *collect(trainer))
            trainer.num_updates += 1
            validates = validates_after(config, trainer.num_updates)
            if logs := validates or trainer.num_updates % 10 == 0:
                scalars = mean_scalars(scalars)
            if validates:
                scalars |= from_first(lambda: validate(trainer, run))
            trainer.seconds = time.perf_counter() - started
            if log is not None and logs:
                log.write(trainer.num_updates, scalars | {"time/seconds": trainer.seconds})
            progress.advance(config.model, trainer.num_updates, scalars if logs else {}, of=updates)
            if first and (validates or time.perf_counter() - saved > config.training.advanced.checkpoint_seconds):
                run.save_last(trainer.state())
                saved = time.perf_counter()


def validates_after(config: Config, updates: int) -> bool:
    """Whether that many updates are followed by a validation.

    There is none in the warm-up. Models without one wait as long, so that all choose among equally many checkpoints.
    """
    training = config.training
    due = updates % training.advanced.validate_every == 0 and updates > training.warmup_updates
    return due or updates == training.updates


def validate(trainer: Trainer, run: RunFolder) -> dict[str, float]:
    """Play the validation split, keep the weights if they are the best so far, and return the scalars to log."""
    measured = trainer.measure_validation()
    trainer.policy.train()
    if (rank := trainer.rank(measured)) > trainer.best_rank:
        trainer.best_rank, trainer.best_update = rank, trainer.num_updates
        run.save_best(trainer.policy.state_dict())
    names = ("accuracy", "log_score", "vote_accuracy", "reward", "focus")
    return {f"validation/{name}": value for name in names if (value := getattr(measured, name)) is not None}


def train(
    config: Config,
    out: Path | None = None,
    *,
    sources: Sources | None = None,
    progress: Progress | None = None,
    test: bool = True,
    changes: Collection[str] = (),
) -> RunResult:
    """Train one model into the folder `out`, or finish the run that was begun there.

    Args:
        config: of the run.
        out: its folder; by default a new one under runs/.
        sources: the splits "train", "validation" and "test", any `ClipSource` objects; those that the configuration
            names by default.
        progress: of the command that trains several runs.
        test: play the test split at the end.
        changes: settings that may differ from those of the run in `out`, and replace them.

    Raises:
        ValueError: the configuration cannot be played, another process trains into the folder, or the folder holds a
            run of another configuration or source.
        StoppedError: SIGTERM or SIGINT came; the run can be resumed.
        RankLostError: another process that shares the run has stopped.
    """
    with join_ranks() as share, Interruption() as interruption, ExitStack() as stack:
        run = RunFolder(out or from_first(lambda: default_folder(config)))
        with raise_together():
            if sources is not None:
                config = config.with_settings({"source": name_of(sources["train"], config.task.source)})
                sources = in_windows(config, sources)
            sources = sources or open_splits(config)
            config = ready_config(config, sources, share)
            if share.is_first:
                stack.enter_context(run.lock())
                run.begin(config, SourceRecord.of(config, sources["train"]), changes=changes)
        progress = progress or stack.enter_context(Progress(config.training.updates, shows=share.is_first))
        finished = from_first(run.result)
        if finished is not None and (finished.test or not test):
            progress.skip(config.training.updates)
            return finished
        trainer = Trainer(config, sources)
        fit(trainer, run, interruption, progress)
        if not run.has_best:  # a run that was shortened below its first validation
            from_first(lambda: validate(trainer, run))
        result = from_first(lambda: trainer.conclude(run, sources["test"] if test else None))
        if signum := largest_over_ranks(interruption.signum):
            raise StoppedError(signum, f"{config.model} was tested")
        return result


def expected_seconds(config: Config, sources: Sources) -> float:
    """Return the expected seconds of a run, from those of an update that trains everything and of one batch of clips.

    The run plays the validation split after some updates and once more at the end, and then the test split. Adding the
    linear classifier plays validation twice more, and a part of the training split. Its fits are not counted.
    """
    trainer, updates = Trainer(config, sources), config.training.updates
    for _ in range(2):  # the first one warms up
        trainer.num_updates, started = updates - 1, time.perf_counter()
        update(trainer, *collect(trainer))
        middle = time.perf_counter()
        _, played = next(play_split(trainer.validation_envs, trainer.policy, greedy_play(config), seed=0))
        ended = time.perf_counter()
    validations = 1 + sum(validates_after(config, done) for done in range(1, updates + 1))
    clips = sources["test"].num_clips
    if config.policy.advanced.linear_finish:
        validations += 2
        clips += min(sources["train"].num_clips, MAX_FRAMES // trainer.policy.shape.frames)
    clips += validations * sources["validation"].num_clips
    return updates * (middle - started) + clips * (ended - middle) / played


# ---- the command

RESUMED_FLAGS = ("updates", "device", "source")  # settings that --resume can change


@dataclass(frozen=True, kw_only=True)
class Output:
    """Train a recurrent glimpse policy by REINFORCE, and compare it with other models."""

    out: Path | None = None
    """Folder of the new runs, one for each model; by default a new one under runs/."""
    resume: Path | None = None
    """Run, or folder of runs, to resume; only --updates, --device and --source can be changed."""
    evaluate: Path | None = None
    """Run, folder of runs, packed run, or "synthetic", the run that is installed with the package, whose test split is
    played again, with --source also on another source."""
    sampled: bool = False
    """With --evaluate: sample cells as in training, instead of taking the most likely ones."""
    tuned: Path | None = None
    """File that videoglimpse tune wrote (settings.json), with the settings that each model learns best with."""


def parse_arguments(arguments: Sequence[str] | None = None) -> CommandLine[Output]:
    """Read the command line, and refuse flags that cannot be combined."""
    line = parse_command(Output, arguments, program="videoglimpse train")
    output = line.output
    if output.resume is not None and output.evaluate is not None:
        raise ValueError("--resume and --evaluate are two commands: give one of them")
    if output.resume is not None:
        line.refuse_flags("--resume", {"--resume", *(f"--{name}" for name in RESUMED_FLAGS)})
    if output.evaluate is not None:
        line.refuse_flags("--evaluate", {"--evaluate", "--sampled", "--device", "--source"})
    elif output.sampled:
        raise ValueError("--sampled requires --evaluate RUN")
    return line


def main() -> None:
    """Do what the command line asks; of several processes the first one prints."""
    line = parse_arguments()
    output = line.output
    with join_ranks() as share:
        if output.evaluate is not None:
            if share.is_first:
                jobs = resumed_jobs(line, output.evaluate)
                print(results_table(evaluate_again(jobs, sampled=output.sampled), chance_of(jobs)))
            return
        out = output.resume or output.out or from_first(lambda: default_folder(line.config))
        try:
            jobs = resumed_jobs(line, out) if output.resume else jobs_of_models(line, out, output.tuned)
            changes = RESUMED_FLAGS if output.resume else ()
            results = train_all(jobs, train, estimate=expected_seconds, changes=changes)
        except StoppedError as stopped:
            stopped.remedy = f"resume it with --resume {quote(str(out))}"
            raise
        finally:
            with suppress(OSError):
                out.rmdir()  # nothing was begun in it
        if share.is_first:
            measured = [
                (job.config.model, result.measured) for job, result in zip(jobs, results, strict=True) if result
            ]
            print(results_table(measured, chance_of(jobs)))
            for job, (_, evaluation) in zip(jobs, measured, strict=True):
                if MODELS[job.config.model].learns:
                    save_examples(RunFolder(job.path), evaluation)
            page = quote(str(out / "report.html"))
            print(f"\nWrote {out}. Next: videoglimpse report {quote(str(out))} --out {page}")


def chance_of(jobs: Sequence[Job]) -> float:
    """Return the accuracy of a guess."""
    return 1 / len(find_run(jobs[0].path).record().source.class_names)


if __name__ == "__main__":
    run_command(main, ranks=True)
