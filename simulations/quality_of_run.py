"""The whole evaluation protocol on a finished run: the exported model beside EASE, on the same test users.

`quality.json` holds the exported model's record, `quality.html` both systems: cold and tail items, new and active
users, partners, and what the lists do to the catalogue (docs/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.data.catalogue import Catalogue
from mmrec_model.evaluation.baselines import EASE, MAX_ITEMS
from mmrec_model.evaluation.ranking import Ranks
from mmrec_model.features.bundle import FeatureBundle
from mmrec_model.model.state import model_of_state
from mmrec_model.protocol import PRIOR, Arrays
from simulations.assessment import floor_ranks
from simulations.panels import Panel, baseline_on_histories, model_on_histories, panel_of
from simulations.quality import Extras, ItemFacts, assess
from simulations.quality_page import write_quality_page
from simulations.quality_record import write_quality

RECORD_FILE, PAGE_FILE = "quality.json", "quality.html"


def write_quality_of_run(  # noqa: PLR0917 - the parts of one run
    config: RunConfig,
    sites: Sequence[Site],
    bundle: FeatureBundle,
    test: Panel,
    state: Arrays,
    out: Path,
    progress: Callable[[int, int], None],
) -> None:
    """Assess and write both files.

    Args:
        config: the run.
        sites: the partners.
        bundle: the features.
        test: all test users; those of a run that reads users' own media are scored by history alone here.
        state: as exported.
        out: the workspace.
        progress: told about users scored.
    """
    items = sites[0].items
    catalogue: Catalogue = sites[0].dataset.catalogue
    facts = ItemFacts.of(catalogue, bundle.vectors, np.asarray(bundle.present_NM))
    names = [site.config.name for site in sites]
    cold = panel_of([site.dataset for site in sites], "cold")
    floors: Mapping[str, Ranks] = floor_ranks(config, items, test, state)
    extras = Extras(held_out=cold if cold.histories else None, others=floors, partner_names=names)
    score = model_on_histories(model_of_state(config, state), items.with_prior(state[PRIOR]))
    records = [assess(test, score, facts, system=config.run_id, extras=extras, progress=progress)]
    if len(items.prior) <= MAX_ITEMS:
        fitted = baseline_on_histories(EASE().fit(test.train), len(items.prior))
        extras = Extras(held_out=extras.held_out, partner_names=names)
        records.append(assess(test, fitted, facts, system="ease", extras=extras))
    write_quality(records[0], out / RECORD_FILE)
    write_quality_page(records, out / PAGE_FILE)
