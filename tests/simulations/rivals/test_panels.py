"""A panel says which train row and which partner belongs to each of its users, also after a sample was drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmrec_model.data.dataset import open_partner
from simulations.assessment import panel_of
from simulations.rivals.interface import federation_of, visitors_of


def test_train_rows_and_partners_of_a_panel_belong_to_its_users(small_partner: Path) -> None:
    data = open_partner(small_partner)
    for part in ("val", "test"):
        panel = panel_of([data, data], part)  # type: ignore[arg-type]
        for chosen in (panel, panel.sample(40, seed=1)):
            visitors, federation = visitors_of(chosen), federation_of(chosen)
            trained = federation.train[visitors.train_rows_U].toarray()
            more = 0 if part == "val" else 1
            assert (visitors.rows.toarray() - trained).sum(axis=1).tolist() == [more] * len(chosen.histories)
            assert (visitors.rows.toarray() >= trained).all()
            assert np.array_equal(federation.partner_A[visitors.train_rows_U], visitors.partner_U)
            assert len(set(visitors.train_rows_U)) == len(chosen.histories)
        assert federation.partners == 2
        assert federation.partner_A.tolist() == [0] * 90 + [1] * 90
