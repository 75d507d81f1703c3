"""The real data set opens whole, and its published split is the one that is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmrec_model.data.batches import draw_batch
from mmrec_model.data.dataset import PartnerDataset, open_partner, read_user_columns
from mmrec_model.data.media import check_pictures
from mmrec_model.data.writing import write_partner


@pytest.fixture(scope="module")
def data(xwines: Path) -> PartnerDataset:
    return open_partner(xwines)


def test_its_published_numbers_are_found_and_no_row_is_lost(data) -> None:
    assert data.report.rows_read == {"items.parquet": 1_007, "interactions.parquet": 150_000, "users.parquet": 10_561}
    assert data.report.quarantined == {}
    assert (len(data), len(data.catalogue)) == (10_561, 1_007)
    assert (int((data.test >= 0).sum()), int((data.val >= 0).sum())) == (10_304, 10_304)
    assert len(data.train.items) == 150_000 - 2 * 10_304
    assert sum(path is not None for path in data.catalogue.media["image"]) == 100
    assert data.catalogue.item_ids[0] == "100001"
    assert data.train.matrix(1_007).sum() == 129_392


def test_every_picture_is_readable(data) -> None:
    assert check_pictures(data.catalogue) is data.catalogue


def test_every_user_has_a_country(data) -> None:
    columns = read_user_columns(data.root)
    assert len({columns[user]["silo_country"] for user in data.user_ids}) == 20


def test_the_computed_split_equals_the_published_one(data, tmp_path) -> None:
    rows = pq.read_table(data.root / "interactions.parquet", columns=["user_id", "item_id", "timestamp"])
    write_partner(tmp_path, interactions=rows)
    computed = open_partner(tmp_path, catalogue=data.catalogue)
    assert computed.user_ids == data.user_ids
    for name in ("val", "test"):
        assert np.array_equal(getattr(computed, name), getattr(data, name))
    assert np.array_equal(computed.train.items, data.train.items)
    assert np.array_equal(computed.train.offsets, data.train.offsets)


def test_a_batch_of_all_users_keeps_its_negatives_out_of_their_histories(data) -> None:
    users = np.arange(len(data))
    batch = draw_batch(data.train, users, n_items=1_007, max_history=32, negatives=64, seed=1)
    owned = data.train.matrix(1_007).toarray().astype(bool)
    assert not owned[users[:, None], batch.negatives_BN].any()
    assert (owned[users[:, None], batch.history_BK] | ~batch.mask_BK).all()
