"""Recurrent PPO on `VideoGlimpse-v0` in one file: config, environments, agent, rollout, advantages, loss, log.

    pip install -e ".[agents]"
    python examples/train_ppo.py                    # two million steps
    python examples/train_ppo.py --steps 20000      # a smoke test
    python examples/train_ppo.py --run runs/rivals/ppo && python -m agents.compare --runs runs/rivals runs/mine
    tensorboard --logdir runs

Tested with Python 3.11, Gymnasium 1.4 and torch 2.15. The native vector environment, its NextStep autoreset and its
MultiDiscrete action are used as they are. The agent sees slices with their places and the frame's number, and an LSTM
remembers them. PPO learns the looks and the predictions from the reward. An added cross-entropy on
`info["frame_labels"]` makes that feasible in minutes; `--label-weight 0` removes it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from common import installed_by

import glimpse_env  # noqa: F401 - registers VideoGlimpse-v0

with installed_by('pip install -e ".[agents]"'):
    import torch
    import tyro
    from glimpse_agents import evaluate as measure
    from glimpse_agents import save_run
    from torch import Tensor, nn
    from torch.distributions import Categorical
    from torch.utils.tensorboard import SummaryWriter

MARKS = 8  # channels of a seen slice that attract looks to the cells around it
State = tuple[Tensor, Tensor]  # of the LSTM


@dataclass(frozen=True)
class Config:
    """Train recurrent PPO on VideoGlimpse."""

    steps: int = 2_000_000
    """Environment steps to train for."""
    seed: int = 1
    """Seed of the environments and of torch."""
    source: str = "synthetic"
    """A synthetic source, or the path of a feature store."""
    glimpses: int = 5
    """m, the number of cells looked at in each frame."""
    jumps: tuple[int, ...] | None = None
    """Jumps in time that the agent chooses from, such as 1 2 4 8. It observes every frame without them."""
    num_envs: int = 256
    """Number of environments stepped together."""
    rollout_steps: int = 17
    """Steps of each environment between updates. An episode takes T + 1 steps; the last one only resets."""
    learning_rate: float = 3e-3
    """Adam's learning rate. It falls linearly to 0."""
    gamma: float = 1.0
    """Discount. It is 1 because the only reward comes at the end."""
    gae_lambda: float = 0.95
    """Lambda of the advantage estimate."""
    epochs: int = 4
    """Passes over a rollout."""
    minibatches: int = 4
    """Parts of a rollout. Each holds whole environments, because the LSTM needs their steps in order."""
    clip: float = 0.2
    """Largest change of the probability ratio."""
    entropy_bonus: float = 0.003
    """Weight of the entropy of all parts of the action. It falls linearly to 0."""
    label_weight: float = 1.0
    """Weight of the cross-entropy of the class against the frame's labels (eq. 8). 0 learns from the reward alone."""
    value_weight: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient; larger ones are clipped."""
    hidden_size: int = 64
    """Units of the LSTM."""
    evaluate_every: int = 20
    """Updates between two evaluations on the validation split."""
    log_dir: str = "runs/ppo"
    """Folder of the TensorBoard events."""
    run: Path | None = None
    """Folder to write as a run that videoglimpse compare takes, next to runs of videoglimpse train."""


def make_envs(config: Config, **kwargs: Any) -> gym.vector.VectorEnv:
    kwargs = {"num_envs": config.num_envs, "jumps": config.jumps, **kwargs}
    return gym.make_vec(
        "VideoGlimpse-v0", source=config.source, glimpses=config.glimpses, observation="slices", **kwargs
    )


class Agent(nn.Module):
    """Embeds every slice with its place, sums them into an LSTM, and chooses cells from that state and the slices."""

    def __init__(self, envs: gym.vector.VectorEnv, hidden_size: int) -> None:
        super().__init__()
        assert isinstance(envs.single_action_space, gym.spaces.MultiDiscrete)
        self.parts = envs.single_action_space.nvec.tolist()  # [K*K] * m + [C], with jumps [K*K] * m + [J, C]
        self.glimpses, self.cells = envs.single_observation_space.shape[0], self.parts[0]
        self.grid_size = round(self.cells**0.5)
        depth = envs.single_observation_space.shape[1] - 2
        self.what = nn.Linear(depth, hidden_size)
        self.where = nn.Embedding(self.cells, hidden_size)
        self.when = nn.Embedding(envs.unwrapped.source.num_frames, hidden_size)
        self.lstm = nn.LSTMCell(hidden_size, hidden_size)
        self.marks = nn.Linear(depth, MARKS)
        self.around = nn.Conv2d(MARKS, self.glimpses, 3, padding=1)
        self.policy = nn.Linear(hidden_size, sum(self.parts))
        self.value = nn.Linear(hidden_size, 1)
        nn.init.orthogonal_(self.policy.weight, 0.01)
        nn.init.zeros_(self.policy.bias)

    def initial_state(self, episodes: int) -> State:
        zeros = self.value.weight.new_zeros(episodes, self.lstm.hidden_size)
        return zeros, zeros

    def forward(self, slices: Tensor, frames: Tensor, state: State) -> tuple[list[Categorical], Tensor, State]:
        """Play (T, N, m, D + 2) slices; a 1 in `frames`, (T, N), clears the state of the LSTM."""
        content, places = slices[..., :-2], slices[..., -2:]
        rows, columns = (places * self.grid_size).long().unbind(-1)
        cells = rows * self.grid_size + columns  # (T, N, m)
        seen = (places[..., :1] > 0).float()  # a cell chosen twice is a row of zeros
        embedded = (seen * torch.relu(self.what(content) + self.where(cells))).sum(2)  # (T, N, H)
        embedded = embedded + self.when(frames - 1)
        hidden = []
        for inputs, frame in zip(embedded, frames, strict=True):
            kept = (frame != 1)[:, None]
            state = self.lstm(inputs, (state[0] * kept, state[1] * kept))
            hidden.append(state[0])
        features = torch.stack(hidden)
        logits = self.policy(features) + self._near_what_was_seen(seen * torch.relu(self.marks(content)), cells)
        parts = [Categorical(logits=part, validate_args=False) for part in logits.split(self.parts, -1)]
        return parts, self.value(features)[..., 0], state

    def _near_what_was_seen(self, marks: Tensor, cells: Tensor) -> Tensor:
        """Put (T, N, m, MARKS) marks on the grid at their cells; a look scores cells by the marks around them."""
        steps, envs = cells.shape[:2]
        grid = marks.new_zeros(steps * envs, self.cells, MARKS)
        grid = grid.scatter_add(1, cells.flatten(0, 1)[..., None].expand(-1, -1, MARKS), marks.flatten(0, 1))
        grid = grid.transpose(1, 2).unflatten(2, (self.grid_size, self.grid_size))  # (T*N, MARKS, K, K)
        scores = self.around(grid).reshape(steps, envs, -1)  # (T, N, m*K*K)
        return nn.functional.pad(scores, (0, sum(self.parts[self.glimpses :])))  # no score for jump and class


class Rollout(NamedTuple):
    """Steps of N environments between two updates, (T, N, ...)."""

    slices: Tensor
    frames: Tensor
    actions: Tensor
    log_probs: Tensor
    acting: Tensor  # 0 at resets, which ignore the action
    truths: Tensor  # (T, N, C) bool, the classes true at the predicted frame
    advantages: Tensor
    returns: Tensor


def log_prob(parts: list[Categorical], actions: Tensor) -> Tensor:
    return torch.stack([part.log_prob(actions[..., i]) for i, part in enumerate(parts)]).sum(0)


def advantages_of(rewards: Tensor, values: Tensor, dones: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Return the GAE of (T, N) rewards; values are (T + 1, N), and dones marks the steps that ended an episode."""
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[0])
    for step in reversed(range(len(rewards))):
        alive = 1 - dones[step]
        delta = rewards[step] + gamma * values[step + 1] * alive - values[step]
        following = delta + gamma * gae_lambda * alive * following
        advantages[step] = following
    return advantages


@torch.no_grad()
def evaluate(agent: Agent, envs: gym.vector.VectorEnv, seed: int) -> tuple[float, float]:
    """Play every clip of a split once, with sampled looks; return the means of reward and `is_correct`."""
    generator = torch.Generator().manual_seed(seed)
    totals = np.zeros((2, envs.unwrapped.num_clips))
    for first in range(0, envs.unwrapped.num_clips, envs.num_envs):
        clips = np.arange(first, first + envs.num_envs) % envs.unwrapped.num_clips
        slices, infos = envs.reset(seed=seed, options={"clip": clips})
        state = agent.initial_state(envs.num_envs)
        over = np.zeros(envs.num_envs, np.bool_)
        while not over.all():
            parts, _, state = agent(torch.as_tensor(slices)[None], torch.as_tensor(infos["frame"])[None], state)
            looks = [torch.multinomial(part.probs[0], 1, generator=generator) for part in parts[:-1]]
            actions = torch.cat([*looks, parts[-1].probs[0].argmax(1, keepdim=True)], 1)
            slices, reward, done, _, infos = envs.step(actions.numpy())
            ends = done & ~over  # an episode that jumped to its end is followed by another, which does not count
            totals[:, clips[ends]] = reward[ends], infos["is_correct"][ends]
            over |= done
    mean_reward, accuracy = totals.mean(1).tolist()
    return mean_reward, accuracy


class Player:
    """The agent with sampled looks, as `glimpse_agents.evaluate` takes it."""

    def __init__(self, agent: Agent, seed: int) -> None:
        self.agent, self.generator = agent, torch.Generator().manual_seed(seed)

    def reset(self, num_envs: int) -> None:
        self.state, self.frame = self.agent.initial_state(num_envs), torch.zeros(1, num_envs, dtype=torch.int64)

    @torch.no_grad()
    def __call__(self, slices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.frame += 1
        parts, _, self.state = self.agent(torch.as_tensor(slices)[None], self.frame, self.state)
        looks = [torch.multinomial(part.probs[0], 1, generator=self.generator) for part in parts[:-1]]
        scores = parts[-1].probs[0]
        return torch.cat([*looks, scores.argmax(1, keepdim=True)], 1).numpy(), scores.numpy()


def mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum()


def update(
    agent: Agent, optimizer: torch.optim.Optimizer, rollout: Rollout, state: State, config: Config, left: float
) -> dict[str, float]:
    """Learn from a rollout that began in `state`, with a share `left` of the updates to come; return scalars to log."""
    classes = rollout.truths.shape[-1]  # one fewer than the action has if it may abstain
    for _ in range(config.epochs):
        for chosen in torch.randperm(config.num_envs).chunk(config.minibatches):
            batch = Rollout(*(part[:, chosen] for part in rollout))
            parts, value, _ = agent(batch.slices, batch.frames, (state[0][chosen], state[1][chosen]))
            log_ratio = log_prob(parts, batch.actions) - batch.log_probs
            ratio = log_ratio.exp()
            clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
            policy_loss = -mean(torch.min(ratio * batch.advantages, clipped * batch.advantages), batch.acting)
            value_loss = mean((value - batch.returns).square(), batch.acting)
            entropy = mean(torch.stack([part.entropy() for part in parts]).sum(0), batch.acting)
            label_loss = mean(-(parts[-1].logits[..., :classes] * batch.truths).sum(-1), batch.acting)
            loss = policy_loss + config.value_weight * value_loss + config.label_weight * label_loss
            loss = loss - left * config.entropy_bonus * entropy
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), config.max_grad_norm)
            optimizer.step()
    return {
        "train/policy_loss": policy_loss.item(),
        "train/value_loss": value_loss.item(),
        "train/label_loss": label_loss.item(),
        "train/entropy": entropy.item(),
        "train/approximate_kl": mean((ratio - 1) - log_ratio, batch.acting).item(),
    }


def test(agent: Agent, config: Config, train_seconds: float) -> None:
    """Play the test split; write a run for agents.compare if the configuration names its folder."""
    envs = make_envs(config, split="test", num_envs=200)
    print("after: mean return {:.2f}, accuracy {:.3f} on test".format(*evaluate(agent, envs, config.seed)))
    if config.run is not None:
        task = {"source": config.source, "glimpses": config.glimpses}
        measured, chosen = (
            measure(Player(agent, config.seed), split=split, observation="slices", **task)
            for split in ("test", "validation")
        )
        save_run(config.run, "PPO", measured, validation=chosen, seed=config.seed, train_seconds=train_seconds, **task)
        print(f"wrote {config.run}: accuracy {measured.accuracy:.3f}")


def train(config: Config) -> Agent:
    torch.manual_seed(config.seed)
    envs = make_envs(config)
    agent = Agent(envs, config.hidden_size)
    optimizer = torch.optim.Adam(agent.parameters(), lr=config.learning_rate, eps=1e-5)
    log = SummaryWriter(config.log_dir)
    log.add_text("config", str(asdict(config)))
    validation = make_envs(config, split="validation", num_envs=200)
    before = evaluate(agent, validation, config.seed)
    print("before: mean return {:.2f}, accuracy {:.3f} on validation".format(*before))

    length = config.rollout_steps
    slices = torch.zeros(length, config.num_envs, *envs.single_observation_space.shape)
    actions = torch.zeros(length, config.num_envs, len(agent.parts), dtype=torch.int64)
    frames = torch.zeros(length, config.num_envs, dtype=torch.int64)
    rewards, log_probs, dones, acting = torch.zeros(4, length, config.num_envs)
    values = torch.zeros(length + 1, config.num_envs)
    truths = torch.zeros(length, config.num_envs, len(envs.unwrapped.class_names), dtype=torch.bool)

    observation, infos = envs.reset(seed=config.seed)
    over = torch.zeros(config.num_envs)
    state = agent.initial_state(config.num_envs)
    updates = max(1, config.steps // (length * config.num_envs))
    began = time.perf_counter()
    for number in range(updates):
        first_state, correct, episode_returns = state, [], []
        for step in range(length):
            slices[step], frames[step] = torch.as_tensor(observation), torch.as_tensor(infos["frame"])
            acting[step] = 1 - over
            with torch.no_grad():
                parts, value, state = agent(slices[step : step + 1], frames[step : step + 1], state)
            actions[step] = torch.stack([part.sample()[0] for part in parts], -1)
            values[step] = value[0]
            log_probs[step] = log_prob(parts, actions[step : step + 1])[0]
            observation, reward, done, _, infos = envs.step(actions[step].numpy())
            rewards[step], dones[step] = torch.as_tensor(reward / agent.when.num_embeddings), torch.as_tensor(done)
            truths[step] = torch.as_tensor(infos["frame_labels"])
            # NextStep: the step after a final observation is a reset, which ignores the action and pays nothing.
            over = dones[step].clone()
            if done.any():
                correct.extend(infos["is_correct"][done])
                episode_returns.extend(reward[done])
        with torch.no_grad():
            _, value, _ = agent(torch.as_tensor(observation)[None], torch.as_tensor(infos["frame"])[None], state)
        values[length] = value[0]

        advantages = advantages_of(rewards, values, dones, config.gamma, config.gae_lambda)
        returns = advantages + values[:-1]
        acted = advantages[acting.bool()]
        advantages = (advantages - acted.mean()) / (acted.std() + 1e-8)
        left = 1 - number / updates
        optimizer.param_groups[0]["lr"] = left * config.learning_rate
        rollout = Rollout(slices, frames, actions, log_probs, acting, truths, advantages, returns)
        scalars = update(agent, optimizer, rollout, first_state, config, left)

        seen = (number + 1) * length * config.num_envs
        scalars["time/steps_per_second"] = speed = seen / (time.perf_counter() - began)
        if correct:
            scalars |= {"train/return": np.mean(episode_returns), "train/accuracy": np.mean(correct)}
        if (number + 1) % config.evaluate_every == 0:
            scalars["eval/return"], scalars["eval/accuracy"] = evaluate(agent, validation, config.seed)
            print(
                "{:>9} steps, {:.0f} a second: return {eval/return:.2f}, accuracy {eval/accuracy:.3f}, "
                "label loss {train/label_loss:.2f}, entropy {train/entropy:.2f}".format(seen, speed, **scalars)
            )
        for name, scalar in scalars.items():
            log.add_scalar(name, scalar, seen)
    log.close()
    test(agent, config, time.perf_counter() - began)
    return agent


def parse_arguments(arguments: Sequence[str] | None = None) -> Config:
    config = tyro.cli(Config, args=arguments)
    if config.steps < 1:
        sys.exit(f"--steps must be at least 1, got {config.steps}")
    if config.run is not None and config.jumps is not None:
        sys.exit("--run takes no --jumps: videoglimpse compare measures agents that observe every frame")
    return config


if __name__ == "__main__":
    train(parse_arguments())
