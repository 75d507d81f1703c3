"""The whole evaluation protocol on a finished run: the exported model beside EASE, on the same test users.

`quality.json` holds the exported model's record, `quality.html` both systems: cold and tail items, new and active
users, partners and what each gains over staying alone, and what the lists do to the catalogue (docs/evaluation.md).
Nothing that was ranked before is ranked again (`simulations.standing`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from client.site import Site
from mmrec_model.data.catalogue import Catalogue
from mmrec_model.features.bundle import FeatureBundle
from simulations.panels import Panel, panel_of, with_new_items
from simulations.quality import Extras, ItemFacts, assess
from simulations.quality_page import write_quality_page
from simulations.quality_record import write_quality
from simulations.standing import EASE, Standing

RECORD_FILE, PAGE_FILE = "quality.json", "quality.html"


def write_quality_of_run(  # noqa: PLR0917 - the parts of one run
    name: str,
    sites: Sequence[Site],
    bundle: FeatureBundle,
    test: Panel,
    standing: Standing,
    out: Path,
    progress: Callable[[int, int], None],
) -> None:
    """Assess and write both files.

    Args:
        name: of the exported model.
        sites: the partners.
        bundle: the features.
        test: all test users; those of a run that reads users' own media are scored by history alone here, and so not
            compared with what their partners have alone.
        standing: what was ranked on them.
        out: the workspace.
        progress: told about users scored.
    """
    catalogue: Catalogue = sites[0].dataset.catalogue
    facts = ItemFacts.of(catalogue, bundle.vectors, np.asarray(bundle.present_NM))
    names = [site.config.name for site in sites]
    cold = panel_of([site.dataset for site in sites], "cold")
    held_out = cold if cold.histories else None
    exported, ease = standing.exported, standing.ease
    new_N = np.zeros(test.task.n_items, dtype=np.bool_)
    for site in sites:
        new_N[site.dataset.cold_items.items] = True
    extras = Extras(
        held_out=held_out,
        placed=with_new_items(exported.score, standing.content, new_N),
        alone=standing.alone.test if test.own is None else None,
        others=standing.floors,
        partner_names=names,
    )
    records = [
        assess(test, exported.score, facts, system=name, extras=extras, measured=exported.measured, progress=progress)
    ]
    if ease is not None:
        extras = Extras(held_out=held_out, partner_names=names)
        records.append(assess(test, ease.score, facts, system=EASE, extras=extras, measured=ease.measured))
    write_quality(records[0], out / RECORD_FILE)
    write_quality_page(records, out / PAGE_FILE)
