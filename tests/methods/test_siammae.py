"""SiamMAE: what is hidden, what attends to what, and the decoders of public code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dropmae.data.clips import Sequence, generator
from dropmae.methods.siammae import PRESETS, SiamMAE, spaced_pair
from dropmae.nn import masking
from dropmae.nn.decoders import CrossBlock
from dropmae.ops import noise


def make(**settings: Any) -> SiamMAE:
    torch.manual_seed(0)
    return SiamMAE(size="tiny", image=64, **settings).eval()


def frames(batch: int = 2) -> Tensor:
    return torch.randn(batch, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def keys(batch: int = 2) -> Tensor:
    return noise.keys(0, torch.arange(batch))


def test_the_past_is_whole_and_the_future_nearly_hidden() -> None:
    module = SiamMAE(size="tiny", image=224)
    mask = module.hide(keys(3), (14, 14))
    assert not mask.masked[:, :196].any()
    assert (mask.masked[:, 196:].sum(1) == 196 - 9).all()  # 9 of 196 tokens are seen at 95 %
    assert torch.equal(mask.keep[0, :196], torch.arange(196))
    assert ((mask.keep[:, 196:] >= 196) & ~mask.masked.gather(1, mask.keep[:, 196:])).all()
    order = torch.cat([mask.keep[0], torch.nonzero(mask.masked[0]).flatten()])
    assert torch.equal(order.sort().values, torch.arange(392))


def test_future_alone_is_predicted() -> None:
    module, key = make(), keys()
    prediction, mask = module.predict(frames(), key)
    assert prediction.shape == (2, 32, 768)
    assert not prediction[:, :16].any()
    changed = frames()
    patches = module.patches(changed)[0]
    hidden = int(torch.nonzero(mask.masked[0])[0]) - 16
    row, column = hidden // 4 * 16, hidden % 4 * 16
    changed[0, 1, :, row : row + 16, column : column + 16] = 0  # a hidden patch of the future: nobody sees it
    assert not torch.equal(module.patches(changed)[0], patches)
    assert torch.equal(module.predict(changed, key)[0][0], prediction[0])
    changed[0, 0, :, :16, :16] = 0  # a patch of the past: everything may depend on it
    assert not torch.equal(module.predict(changed, key)[0][0], prediction[0])


@pytest.mark.parametrize("encoding", ["siamese", "joint"])
@pytest.mark.parametrize("decoding", ["cross-self", "cross", "joint"])
@pytest.mark.parametrize("cls", [True, False])
def test_the_ablation_of_the_paper_runs(encoding: str, decoding: str, cls: bool) -> None:
    module = make(encoding=encoding, decoding=decoding, cls=cls, decoder_depth=1).train()
    batch = {"frames": frames(), "index": torch.arange(2), "seed": 0}
    loss = module(batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert not [name for name, p in module.named_parameters() if p.grad is None]
    assert module.encoder.features(torch.zeros(1, 3, 64, 64)).shape == (1, 192, 4, 4)


def test_siamese_features_do_not_mix_frames_and_joint_ones_do() -> None:
    other = frames()
    other[:, 1] = 0
    for encoding, mixed in (("siamese", False), ("joint", True)):
        module = make(encoding=encoding)
        mask = module.hide(keys(), (4, 4))
        first, second = (module.encode(pair, mask, (4, 4))[:, :17] for pair in (frames(), other))
        assert torch.equal(first, second) != mixed


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_fill_in_what_is_not_given(preset: Any) -> None:
    module = make(preset=preset)
    assert module.order == PRESETS[preset]["order"]
    assert module.past_positions == PRESETS[preset]["past_positions"]
    block = module.decoder.blocks[0]
    assert isinstance(block, CrossBlock)
    assert block.mlp.fc1.out_features == (2048 if preset == "cropmae" else 4 * module.decoder_width)
    assert make(preset=preset, order="self-cross-mlp").order == "self-cross-mlp"


def test_vit_s_has_the_decoder_of_the_public_trainers() -> None:
    module = SiamMAE(size="small", preset="cropmae")
    assert (module.decoder_width, module.decoder_depth, module.decoder_heads) == (256, 4, 8)
    # one block of CropMAE: two attentions of 256, a 256-2048-256 MLP, three norms
    assert sum(p.numel() for p in module.decoder.blocks[0].parameters()) == 2 * 263168 + 1050880 + 3 * 512


def test_a_post_norm_block_is_the_one_of_multihead_attention() -> None:
    torch.manual_seed(0)
    block = CrossBlock(32, 4, ("cross", "mlp", "self"), 64, post_norm=True)
    past, future = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    cross, own = (nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2))
    with torch.no_grad():
        cross.in_proj_weight.copy_(torch.cat([block.cross.q.weight, block.cross.kv.weight]))
        cross.in_proj_bias.copy_(torch.cat([block.cross.q.bias, block.cross.kv.bias]))
        own.in_proj_weight.copy_(block.attn.qkv.weight)
        own.in_proj_bias.copy_(block.attn.qkv.bias)
        for theirs, ours in ((cross, block.cross), (own, block.attn)):
            theirs.out_proj.weight.copy_(ours.proj.weight)
            theirs.out_proj.bias.copy_(ours.proj.bias)
        x = block.norm_cross(future + cross(future, past, past, need_weights=False)[0])
        x = block.norm2(x + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(x))))
        x = block.norm1(x + own(x, x, x, need_weights=False)[0])
        torch.testing.assert_close(block(future, past), x, atol=1e-5, rtol=1e-5)


def test_positions_of_the_past_are_an_option() -> None:
    with_positions, without = make(), make(past_positions=False)
    without.load_state_dict(with_positions.state_dict())
    assert not torch.allclose(with_positions.predict(frames(), keys())[0], without.predict(frames(), keys())[0])
    # Without positions, and without the encoder's, the order of the past's tokens cannot matter.
    latent = without.encode(frames(), (mask := without.hide(keys(), (4, 4))), (4, 4))
    shuffled = torch.cat([latent[:, :1], latent[:, 1:17].flip(1), latent[:, 17:]], 1)
    torch.testing.assert_close(without.decode(latent, mask, (4, 4), None), without.decode(shuffled, mask, (4, 4), None))


def test_the_gap_is_uniform_as_far_as_the_video_is_long() -> None:
    rng = generator(0, 1)
    pairs = np.array([spaced_pair(300, (4, 48), rng) for _ in range(4000)])
    gaps = pairs[:, 1] - pairs[:, 0]
    assert (gaps.min(), gaps.max()) == (4, 48)
    assert abs(gaps.mean() - 26) < 1
    assert pairs[:, 1].max() < 300
    assert {spaced_pair(3, (4, 48), rng) for _ in range(10)} == {(0, 2)}
    assert {b - a for a, b in (spaced_pair(7, (4, 48), rng) for _ in range(200))} == {4, 5, 6}
    with pytest.raises(OSError, match="one frame"):
        spaced_pair(1, (4, 48), rng)


def test_both_frames_share_crop_and_flip() -> None:
    still = np.random.default_rng(0).integers(0, 256, (1, 64, 80, 3), np.uint8).repeat(12, 0)
    module = make()
    for number in range(5):
        past, future = np.asarray(module.sample(Sequence("still", still), generator(number))["frames"])
        assert np.array_equal(past, future)


@torch.no_grad()
def test_the_probe_exchanges_the_past() -> None:
    module = make()
    values = module.probe({"frames": frames(3), "index": torch.arange(3), "seed": 0})
    assert values["loss"] == pytest.approx(values["loss_true"])  # the future is all that is ever judged
    assert values["gap"] == pytest.approx(values["loss_other"] - values["loss_true"])
    mask = module.hide(keys(3), (4, 4))
    assert masking.kept_count(16, 0.95) == (~mask.masked[0, 16:]).sum()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"preset": "catnap"}, "preset"),
        ({"order": "mlp-first"}, "order"),
        ({"decoder_heads": 7}, "heads"),
        ({"gap": (0, 4)}, "gap"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make(**wrong)
