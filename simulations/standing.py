"""The exported model and what stands beside it on the test panel, each fitted and ranked once for all that is written.

Floors cost nothing or one small release; baselines see all data in one place without privacy; alone is what each
partner would have without the federation (`simulations.staying_alone`), joined what each has with it
(`simulations.at_home`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.evaluation.baselines import Recommender, scorer
from mmrec_model.evaluation.ranking import Ranks
from mmrec_model.model.state import model_of_state, state_of_rung
from mmrec_model.protocol import PRIOR, Arrays
from simulations.assessment import fit_baselines, floor_ranks, model_ranks
from simulations.at_home import Joined, join_at_home
from simulations.panels import HistoryScorer, Panel, baseline_on_histories, model_on_histories
from simulations.progress import Progress
from simulations.quality import Measured, measure
from simulations.staying_alone import AtHome, stay_alone

EASE = "ease"


@dataclass(frozen=True)
class System:
    """A system that has been scored on the test panel.

    Attributes:
        score: from histories to scores.
        ranks: on the panel, of what the run exports.
        measured: ranks and lists of `score` on the panel; None in a run that reads users' own media, whose ranks are
            not those of the histories alone.
    """

    score: HistoryScorer
    ranks: Ranks
    measured: Measured | None


@dataclass(frozen=True)
class Standing:
    """Everything that was ranked on the test panel.

    Attributes:
        exported: what the federation gave.
        content: its free content profile, from histories to scores.
        floors: by name.
        baselines: by name, EASE among them where the catalogue is small enough.
        ease: EASE with its lists; None above its item limit.
        alone: what the partners would have otherwise.
        joined: what they have, with their own terms; None in a run that reads users' own media, which those terms do
            not go with.
    """

    exported: System
    content: HistoryScorer
    floors: Mapping[str, Ranks]
    baselines: Mapping[str, Ranks]
    ease: System | None
    alone: AtHome
    joined: Joined | None


def rank_systems(  # noqa: PLR0917 - the parts of one run
    config: RunConfig, sites: Sequence[Site], validation: Panel, test: Panel, state: Arrays, progress: Progress
) -> Standing:
    """Rank everything once.

    Args:
        config: the run.
        sites: the partners.
        validation: what the partners choose by, alone and with the federation.
        test: the users of all figures; looked at once.
        state: as exported.
        progress: told after each kind of system.
    """
    items = sites[0].items
    score, content = (
        model_on_histories(model_of_state(config, one), items.with_prior(state[PRIOR]))
        for one in (state, state_of_rung(config, state, "content"))
    )
    progress("assessing", 0, 5)
    if test.own is None:
        measured = measure(test, score)
        exported = System(score, measured.ranks, measured)
    else:
        exported = System(score, model_ranks(config, items, test, state), None)
    progress("assessing", 1, 5)
    floors = floor_ranks(config, items, test, state)
    progress("assessing", 2, 5)
    fitted = fit_baselines(test)
    ease = _measured(fitted[EASE], test) if EASE in fitted else None
    baselines = {
        name: ease.ranks if ease is not None and name == EASE else test.rank(scorer(one, test.rows))
        for name, one in fitted.items()
    }
    progress("assessing", 3, 5)
    alone = stay_alone(config, items, validation, test, state)
    progress("assessing", 4, 5)
    datasets = [site.dataset for site in sites]
    joined = join_at_home(config, items, datasets, validation, test, state=state) if test.own is None else None
    progress("assessing", 5, 5)
    return Standing(exported, content, floors, baselines, ease, alone, joined)


def _measured(fitted: Recommender, test: Panel) -> System:
    score = baseline_on_histories(fitted, test.task.n_items)
    measured = measure(test, score)
    return System(score, measured.ranks, measured)
