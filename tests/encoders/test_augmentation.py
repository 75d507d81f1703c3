"""Laws of augmentation: a function of seed, item and epoch; nothing without an epoch; masks within their shares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.augmentation import IGNORED, Augmentation
from mmrec_model.encoders.registry import load_encoder

AUGMENTATION = Augmentation(seed=7)
PICTURE = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
LEVELS = 6 * torch.rand(50, 64, generator=torch.Generator().manual_seed(1))
TEXT = torch.tensor([1, *range(10, 50), 2])
BERT = {"mask_id": 3, "vocabulary": 100, "special": {0, 1, 2, 3}}


def copies(augmentation: Augmentation, item: str, epoch: int | None) -> tuple[torch.Tensor, ...]:
    where = {"item": item, "epoch": epoch}
    pictures, levels = augmentation.picture(PICTURE, **where), augmentation.levels(LEVELS, **where)
    return (pictures, levels, *augmentation.tokens(TEXT, **where, **BERT))


def test_a_copy_follows_seed_item_and_epoch_alone() -> None:
    once = copies(AUGMENTATION, "shoe", 3)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert all(torch.equal(one, again) for one, again in zip(once, copies(AUGMENTATION, "shoe", 3), strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    for other in (copies(AUGMENTATION, "hat", 3), copies(AUGMENTATION, "shoe", 4), copies(Augmentation(8), "shoe", 3)):
        assert not any(torch.equal(one, another) for one, another in zip(once, other, strict=True))


def test_without_an_epoch_the_medium_is_untouched() -> None:
    picture, levels, ids, labels = copies(AUGMENTATION, "shoe", None)
    assert picture is PICTURE
    assert levels is LEVELS
    assert ids is TEXT
    assert (labels == IGNORED).all()


def test_evaluation_is_bit_identical_after_any_training_copies(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (40, 40), "red").save(path)
    encoder = load_encoder(EncoderConfig(modality="image", image_size=32))
    before, _ = encoder.encode([path])
    copies(AUGMENTATION, "red", 1)
    assert encoder.encode([path])[0].tobytes() == before.tobytes()


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(1, 90),
    time_share=st.floats(0, 1),
    band_share=st.floats(0, 1),
    masks=st.integers(1, 4),
    epoch=st.integers(0, 9),
)
def test_masks_on_levels_stay_within_their_shares(
    frames: int, time_share: float, band_share: float, masks: int, epoch: int
) -> None:
    levels = torch.arange(1.0, 1 + frames * 64).reshape(frames, 64) + 0.25
    masker = Augmentation(0, time_share=time_share, band_share=band_share, masks=masks)
    changed = masker.levels(levels, item="a", epoch=epoch) != levels
    times, bands = changed.all(1), changed.all(0)
    full = (~(changed & ~times[:, None] & ~bands[None])).all()
    assert full or times.all() or bands.all()
    if not bands.all():
        assert times.sum() <= time_share * frames
    if not times.all():
        assert bands.sum() <= band_share * 64


def test_masks_are_drawn_and_take_the_mean_level() -> None:
    shares = []
    for epoch in range(40):
        found = AUGMENTATION.levels(LEVELS, item="a", epoch=epoch)
        changed = found != LEVELS
        assert torch.allclose(found[changed], LEVELS.mean())
        shares.append(float(changed.float().mean()))
    assert 0.1 < sum(shares) / len(shares) < 0.3


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 99), max_size=60), share=st.floats(0.01, 0.9), epoch=st.integers(0, 5))
def test_the_stated_share_of_ordinary_tokens_is_predicted(ids: list[int], share: float, epoch: int) -> None:
    given_ids = torch.tensor(ids, dtype=torch.int64)
    hidden, labels = Augmentation(0, token_share=share).tokens(given_ids, item="a", epoch=epoch, **BERT)
    chosen = labels != IGNORED
    ordinary = torch.tensor([one not in BERT["special"] for one in ids], dtype=torch.bool)
    assert not (chosen & ~ordinary).any()
    assert int(chosen.sum()) == min(int(ordinary.sum()), max(1, int(share * int(ordinary.sum()))))
    assert torch.equal(labels[chosen], given_ids[chosen])
    assert torch.equal(hidden[~chosen], given_ids[~chosen])


def test_of_the_chosen_tokens_most_are_masked_some_replaced_and_some_kept() -> None:
    fates = {"masked": 0, "kept": 0, "replaced": 0}
    for epoch in range(400):
        hidden, labels = AUGMENTATION.tokens(TEXT, item="a", epoch=epoch, **BERT)
        for found, label in zip(hidden[labels != IGNORED].tolist(), labels[labels != IGNORED].tolist(), strict=True):
            fates["masked" if found == 3 else "kept" if found == label else "replaced"] += 1
    total = sum(fates.values())
    assert fates["masked"] / total == pytest.approx(0.8, abs=0.04)
    assert fates["kept"] / total == pytest.approx(0.1, abs=0.03)


def test_a_crop_shows_no_less_than_its_share_and_is_mirrored_half_the_time() -> None:
    ramp = torch.stack(torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij"))
    mirrored, shares = 0, []
    for epoch in range(200):
        crop = AUGMENTATION.picture(ramp, item="a", epoch=epoch)
        assert crop.shape == ramp.shape
        rows, columns = (crop[axis].max() - crop[axis].min() + 1 for axis in (0, 1))
        shares.append(float(rows * columns) / (24 * 32))
        mirrored += bool(crop[1, 0, 0] > crop[1, 0, -1])
    assert min(shares) > 0.27  # whole pixels and interpolation at the edge cost a little
    assert max(shares) > 0.8
    assert 70 < mirrored < 130
