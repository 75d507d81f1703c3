"""Hidden media: a public draw that takes each medium of each item alike, and changes nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmrec_model.data.catalogue import Catalogue, open_catalogue
from mmrec_model.errors import UsageError
from simulations.hiding import hide_media


@pytest.fixture(scope="module")
def catalogue(small_partner: Path) -> Catalogue:
    small = open_catalogue(small_partner)
    many = 100
    return replace(
        small,
        item_ids=tuple(f"{copy}-{item}" for copy in range(many) for item in small.item_ids),
        titles=small.titles * many,
        texts=small.texts * many,
        categories=small.categories * many,
        media={name: paths * many for name, paths in small.media.items()},
    )


def shown(catalogue: Catalogue) -> np.ndarray:
    return np.array([[bool(t) for t in catalogue.texts], [p is not None for p in catalogue.media["image"]]])


def test_the_share_is_hidden_of_every_medium_and_each_alone(catalogue: Catalogue) -> None:
    before, after = shown(catalogue), shown(hide_media(catalogue, 0.3, 7))
    assert not (after & ~before).any()
    assert after.sum(axis=1) / before.sum(axis=1) == pytest.approx([0.7, 0.7], abs=0.04)
    both = before.all(axis=0)
    assert np.corrcoef(after[:, both])[0, 1] == pytest.approx(0.0, abs=0.08)


def test_the_seed_decides_and_a_larger_share_hides_more_of_the_same(catalogue: Catalogue) -> None:
    some, again = hide_media(catalogue, 0.3, 7), hide_media(catalogue, 0.3, 7)
    assert some == again
    assert some != hide_media(catalogue, 0.3, 8)
    assert not (shown(hide_media(catalogue, 0.6, 7)) & ~shown(some)).any()
    assert some.item_ids == catalogue.item_ids
    assert some.categories == catalogue.categories


def test_nothing_is_hidden_by_default_and_all_is_refused(catalogue: Catalogue) -> None:
    assert hide_media(catalogue, 0.0, 7) is catalogue
    with pytest.raises(UsageError, match=r"1\.0"):
        hide_media(catalogue, 1.0, 7)
