"""MACs per clip as PyTorch counts them, against formulas worked out by hand."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from agent_toys import marked_source, tiny_config
from glimpse_agents.cost.macs import counting, macs_of_policy, macs_per_clip, macs_per_frame, network_macs, network_of
from glimpse_agents.learning.models import MODELS
from glimpse_agents.parallel.noise import Noise
from glimpse_agents.playing.envs import greedy_play, make_envs, make_policy
from glimpse_agents.playing.rollout import play
from torch import nn

from glimpse_env import ArraySource, WallSource
from glimpse_env.video.backbones import Backbone, load_backbone, normalise_imagenet

DATA = os.environ.get("VIDEOGLIMPSE_DATA")
# K*K = 9, D = 4, T = 4, C = 3, m = 2, H = 8, S = 5: sizes of all models of the toys.
NARROW = {"projection_size": 3}  # P = 3 of the 4, so that slices are projected
PLAIN = NARROW | {"encoder": "sum", "skip": True}
SCORES = 9 * 9 * (3 + 2) * 5 + 8 * 5 + 9 * 5  # convolution, state and score of one frame
TAKES = {
    "what_and_where": {"recurrent": 4 * (6 + 8) * 32, "head": 4 * (8 * 8 + 8 * 3)},
    "sum": {"recurrent": 4 * (4 + 8) * 32, "head": 4 * ((8 + 4) * 8 + 8 * 3)},
}


def prepared(model, *, clips=3, **settings):
    config = tiny_config(model=model, **(NARROW | settings))
    source = marked_source(12)
    return make_envs(config, source, clips, train=False), make_policy(config, source).eval(), greedy_play(config)


def counted(model, **kwargs):
    return macs_per_clip(*prepared(model, **kwargs))


def test_glimpses_by_hand():
    macs = counted("reinforce")
    assert macs.choosing == (9 + 3 * 2) * 4 * 3 + 4 * SCORES  # only slices that were seen are projected
    assert macs.attending == (9 + 3 * 2) * 4 * 6
    assert (macs.recurrent, macs.head) == tuple(TAKES["what_and_where"].values())
    assert (macs.slices_attended, macs.slices_read) == (9 + 3 * 2, 9 + 3 * 2)


def test_glimpses_chosen_from_the_whole_cube_by_hand():
    macs = counted("reinforce", **PLAIN, observation="cube")
    assert macs.choosing == 4 * 9 * 4 * 3 + 4 * SCORES
    assert macs.attending == (9 + 3 * 2) * 4
    assert (macs.recurrent, macs.head) == tuple(TAKES["sum"].values())
    assert (macs.slices_attended, macs.slices_read) == (9 + 3 * 2, 4 * 9)


@pytest.mark.parametrize(("network", "width"), [(NARROW, 6), (PLAIN, 1)])
def test_soft_attention_by_hand(network, width):
    macs = counted("soft", **network)
    assert macs.choosing == 4 * 9 * 4 * 3 + 4 * SCORES  # every slice projected, once
    assert macs.attending == 4 * 9 * 4 * width
    assert (
        macs.recurrent == TAKES[network.get("encoder", "what_and_where")]["recurrent"] + 3 * 2 * 8
    )  # and the state before frame 1
    assert macs.head == TAKES[network.get("encoder", "what_and_where")]["head"]
    assert (macs.slices_attended, macs.slices_read) == (4 * 9, 4 * 9)


def test_soft_top_attends_to_the_likeliest_cells_but_reads_all():
    macs = counted("soft_top")
    assert (macs.slices_attended, macs.slices_read) == (4 * 2, 4 * 9)


@pytest.mark.parametrize("observation", ["glimpsed", "cube"])
def test_location_logits_that_decide_nothing_are_not_computed(observation):
    random, reinforce = counted("random", observation=observation), counted("reinforce", observation=observation)
    assert random.choosing == 0
    assert random.policy == reinforce.policy - reinforce.choosing
    assert random.slices_read == 9 + 3 * 2


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("network", [NARROW, PLAIN], ids=["what_and_where", "sum"])
def test_parts_add_up_to_the_total_that_pytorch_counts(model, network):
    envs, policy, settings = prepared(model, **network, observation="cube", clips=4)
    with counting() as total:
        play(envs, policy, np.arange(4), settings, noise=Noise.seeded(0), seed=0)
        expected = total()
    macs = macs_per_clip(envs, policy, settings)
    assert 4 * macs.policy == expected > 0
    assert "project" not in vars(policy.location_head)  # as before the count


@pytest.mark.parametrize("settings", [{"baseline": "value"}, {"glimpse_order": "sequential"}])
def test_heads_that_few_configurations_have_are_counted(settings):
    plain, macs = counted("reinforce"), counted("reinforce", **settings)
    assert macs.head == plain.head
    assert (macs.choosing > plain.choosing) == ("glimpse_order" in settings)


def test_a_clip_costs_the_same_in_any_batch():
    assert counted("soft", clips=1) == counted("soft", clips=12)
    with pytest.raises(
        ValueError, match=r"clips \(13, by default num_envs\) must not exceed the number of clips .*\(12\)"
    ):
        counted("soft", clips=13)


def test_only_observed_frames_are_counted_of_clips_that_jump():
    envs, policy, settings = prepared("reinforce", clips=1, jumps=(1, 3), abstain=False)
    torch.nn.init.zeros_(policy.jump_head.bias)  # both jumps are drawn
    settings = dataclasses.replace(settings, greedy=False)
    macs = macs_per_clip(envs, policy, settings, clips=12, seed=2)
    noise = Noise.seeded(2)
    steps = [play(envs, policy, np.array([clip]), settings, noise=noise, seed=2).steps for clip in range(12)]
    observed = sum(int((one.frames < 4).sum()) for one in steps)
    assert 12 * 2 < observed < 12 * 4
    played = sum(one.frames.shape[1] for one in steps)  # two at least, also if the first jump ends the clip
    assert macs.recurrent == TAKES["what_and_where"]["recurrent"] / 4 * played / 12
    config = tiny_config(**NARROW, jumps=(1, 3), abstain=False)
    assert macs_of_policy(config, marked_source(12), policy, clips=4).slices_attended > 0  # one clip at a time
    several, *others = prepared("reinforce", clips=2, jumps=(1, 3), abstain=False)
    with pytest.raises(ValueError, match="num_envs must be 1, got 2"):
        macs_per_clip(several, *others)
    with pytest.raises(ValueError, match="clips must be a multiple of the 2 environments, got 3"):
        macs_per_clip(several, *others, clips=3)


def test_fused_lstms_are_seen():
    with counting() as total:
        nn.LSTM(6, 8)(torch.zeros(4, 2, 6))
        assert total() == 4 * 2 * (6 + 8) * 32


FRAME, CROP = 7 * 7 * 5 * 7 * 7 * 3, 2 * 2 * 5 * 7 * 7 * 3  # of one convolution, on 224 and on 64 pixels


@pytest.fixture
def backbone():
    network = nn.Conv2d(3, 5, 7, stride=32, padding=3)
    return Backbone(
        name="googlenet", weights_sha256="", device=torch.device("cpu"), network=network, normalise=normalise_imagenet
    )


def test_a_frame_by_hand(backbone):
    assert (macs_per_frame(backbone), macs_per_frame(backbone, 64)) == (FRAME, CROP)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OfCrops(ArraySource):
    crop: int = 64


@pytest.mark.parametrize(
    ("model", "first_glance", "frames", "crops", "looks"),
    [
        ("reinforce", "whole", 1, 3 * 2, 9 + 3 * 2),
        ("reinforce", "none", 0, 3 * 2, 3 * 2),
        ("soft", "whole", 1, 3 * 9, 4 * 9),
        ("soft_top", "whole", 1, 3 * 9, 4 * 9),  # scores all cells, and weighs two
    ],
)
def test_the_network_runs_on_frames_crops_or_cameras(backbone, model, first_glance, frames, crops, looks):
    macs = counted(model, first_glance=first_glance)
    source = marked_source(12)
    assert network_macs(macs, source, backbone, frames=4) == 4 * FRAME
    assert network_macs(macs, marked_source(12, kind=OfCrops), backbone, frames=4) == frames * FRAME + crops * CROP
    wall = WallSource(source, background=["classa"], grid=3, frames=4)
    assert network_macs(macs, wall, backbone, frames=4) == looks * FRAME
    assert network_of(tiny_config(), wall) is None  # no network made the features


@pytest.mark.skipif(DATA is None, reason="needs $VIDEOGLIMPSE_DATA")
def test_googlenet_is_near_its_paper():
    backbone = load_backbone("bvlc_googlenet", weights=Path(DATA) / "weights" / "bvlc_googlenet.safetensors")
    normalising = 56 * 56 * (64 * 64 + 192 * 192)  # neighbouring channels are summed by 1 x 1 convolutions
    # "1.5 billion multiply-adds" (Szegedy et al. 2015).
    assert macs_per_frame(backbone) - normalising == pytest.approx(1.5e9, rel=0.1)
