"""Everything the evaluation protocol asks of one system on one panel, from one scoring of every user.

Scoring dominates, so ranks and lists are taken from the same scores (`measure`), and every slice is a part of those
ranks. Only two figures need further scores: the users as if they were new, of whom a sample is scored with shorter
histories, and the items held out on purpose, which are a panel of their own.

A new user is an existing one of whom the system sees the last n events alone. What is no candidate stays the same, so
that figures for different n differ in the history alone and share their chance level.

Legend: U users, N items, K places of a list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mmrec_model.config import Modality
from mmrec_model.data.catalogue import Catalogue
from mmrec_model.evaluation import beyond_accuracy, diversity
from mmrec_model.evaluation.partner_quality import Gain, contributions, gains, partner_means, spread
from mmrec_model.evaluation.ranking import (
    Floats,
    Ints,
    Progress,
    Ranks,
    chance_of,
    checked_scores,
    per_user,
    place_targets,
    ranks_of,
)
from mmrec_model.evaluation.significance import compare
from mmrec_model.evaluation.slices import BANDS, QUARTILES, TASTES, activity_quartile, popularity_band, taste
from simulations.panels import TIES_SEED, HistoryScorer, Panel
from simulations.quality_record import (
    Figure,
    ListsRecord,
    MeanFigure,
    PairRecord,
    PartnerFigures,
    PartnersRecord,
    QualityRecord,
    SliceRecord,
)

K = 10
OVERALL = (
    "recall_at_10",
    "ndcg_at_10",
    "recall_at_20",
    "ndcg_at_20",
    "precision_at_10",
    "hit_at_10",
    "map_at_10",
    "mrr",
)
SLICED = ("recall_at_10", "ndcg_at_10")
VERDICT = "ndcg_at_10"
NEW_USER_EVENTS = (0, 1, 3, 5)
NEW_USERS = 500
_CHUNK = 1024


@dataclass(frozen=True)
class ItemFacts:
    """What is public of the N items.

    Attributes:
        category_N: category number from 0, -1 where unknown.
        vectors: `[N, D]` per modality.
        present: `[N]` per modality, whether an item has it.
    """

    category_N: Ints
    vectors: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    present: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        vectors: Mapping[Modality, npt.NDArray[np.float32]] | None = None,
        present_NM: npt.NDArray[np.bool_] | None = None,
    ) -> ItemFacts:
        """From a catalogue, and the vectors and `[N, M]` mask of its feature bundle."""
        names, codes = np.unique(np.asarray(catalogue.categories, dtype=np.str_), return_inverse=True)
        known = np.cumsum(names != "") - 1
        given: dict[str, npt.NDArray[np.float32]] = {str(name): rows for name, rows in (vectors or {}).items()}
        present = {} if present_NM is None else {name: present_NM[:, m] for m, name in enumerate(given)}
        return cls(np.where(names[codes] == "", -1, known[codes]).astype(np.int64), given, present)


@dataclass(frozen=True)
class Measured:
    """One scoring of a panel: the places of the held-out items, and the best K items of every user."""

    ranks: Ranks
    lists_UK: Ints


@dataclass(frozen=True)
class Extras:
    """Further runs that some figures need; what is absent is not measured.

    Attributes:
        held_out: panel of the items that were kept out of all training on purpose.
        placed: the system with places for new items in its lists, asked for `held_out` alone.
        alone: ranks on the panel when each partner trained alone.
        without: by partner number, ranks on the panel of a model trained without that partner.
        others: ranks of other systems on the panel, to compare with.
        partner_names: of the partners, by number; numbers by default.
    """

    held_out: Panel | None = None
    placed: HistoryScorer | None = None
    alone: Ranks | None = None
    without: Mapping[int, Ranks] = field(default_factory=dict)
    others: Mapping[str, Ranks] = field(default_factory=dict)
    partner_names: Sequence[str] = ()


def measure(panel: Panel, score: HistoryScorer, *, k: int = K, progress: Progress | None = None) -> Measured:
    """Score every user of a panel once.

    Args:
        panel: the users.
        score: the system.
        k: length of the lists.
        progress: told about users done.

    Raises:
        ModelError: the system answers with another shape or a score that is not a number.
    """
    task, users = panel.task, panel.task.users
    luck_U, generator = task.luck(TIES_SEED), np.random.default_rng(TIES_SEED)
    rank_T = np.zeros(task.flat_targets.size, dtype=np.int64)
    lists_UK = np.full((users, k), beyond_accuracy.EMPTY, dtype=np.int64)
    for start in range(0, users, _CHUNK):
        stop = min(start + _CHUNK, users)
        scores_BN = checked_scores(score(panel.histories[start:stop]), (stop - start, task.n_items))
        place_targets(scores_BN, task, start, rank_T, luck_U=luck_U, seed=TIES_SEED)
        beyond_accuracy.list_best(scores_BN, task.excluded, start, lists_UK, generator)
        if progress is not None:
            progress(stop, users)
    return Measured(ranks_of(task, rank_T), lists_UK)


def assess(
    panel: Panel,
    score: HistoryScorer,
    items: ItemFacts,
    *,
    system: str,
    split: str = "leave-last-out",
    extras: Extras | None = None,
    measured: Measured | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> QualityRecord:
    """All figures of one system.

    Args:
        panel: users and held-out items.
        score: the system, from histories to scores.
        items: public facts of the catalogue.
        system: its name in the record.
        split: what the record says of the split.
        extras: further runs.
        measured: `measure(panel, score)`, where it is known already.
        seed: of the sample of new users, of intervals and of random sign flips.
        progress: told about users scored.

    Raises:
        DataError: the panel has no users, or ranks in `extras` are not of this panel.
        ModelError: as `measure`.
    """
    extras, found = extras or Extras(), measured or measure(panel, score, progress=progress)
    lengths_U = np.asarray([len(history) for history in panel.histories], dtype=np.int64)
    band_T = popularity_band(panel.counts_N)[panel.task.flat_targets]
    by_band = {name: found.ranks.only(band_T == number)[0] for number, name in enumerate(BANDS)}
    held_out = extras.held_out
    return QualityRecord(
        system=system,
        split=split,
        items=panel.task.n_items,
        overall=_slice(found.ranks, OVERALL),
        targets={name: _slice(ranks) for name, ranks in by_band.items()},
        held_out=_kept_out(held_out, score),
        held_out_placed=_kept_out(held_out, extras.placed),
        new_users=_new_users(panel, score, found.ranks, lengths_U, seed),
        activity=_groups(found.ranks, activity_quartile(lengths_U), QUARTILES),
        taste=_groups(found.ranks, taste(panel.histories, panel.counts_N), TASTES),
        partners=_partners(panel, found.ranks, extras) if np.unique(panel.partner_U).size > 1 else None,
        lists=_lists(panel, found.lists_UK, items),
        against=[
            PairRecord(other=name, metric=VERDICT, **pair._asdict())
            for name, pair in compare(found.ranks, extras.others, VERDICT, seed=seed).items()
        ],
    )


def _kept_out(panel: Panel | None, score: HistoryScorer | None) -> SliceRecord | None:
    return None if panel is None or score is None else _slice(panel.rank(panel.scorer(score)))


def _slice(found: Ranks, names: Sequence[str] = SLICED) -> SliceRecord:
    users = int(found.rank_U.size)
    figures = {}
    for name in names if users else ():
        values_U = per_user(found, name)
        error = float(values_U.std() / math.sqrt(users))
        figures[name] = Figure(value=float(values_U.mean()), error=error, chance=chance_of(found, name))
    return SliceRecord(users=users, targets=int(found.places.size), metrics=figures)


def _groups(found: Ranks, group_U: Ints, names: Sequence[str]) -> dict[str, SliceRecord]:
    return {name: _slice(found.take(group_U == number)) for number, name in enumerate(names)}


def _new_users(panel: Panel, score: HistoryScorer, found: Ranks, lengths_U: Ints, seed: int) -> dict[str, SliceRecord]:
    """The same users with their last events alone; those with at least as many as the largest number."""
    able = np.flatnonzero(lengths_U >= max(NEW_USER_EVENTS))
    if able.size > NEW_USERS:
        able = np.sort(np.random.default_rng(seed).choice(able, NEW_USERS, replace=False))
    some = panel.take(able)
    luck = able if panel.task.luck_rows_U is None else panel.task.luck_rows_U[able]
    some = replace(some, task=replace(some.task, luck_rows_U=luck))  # ties fall as they do for the whole history
    records = {}
    for events in NEW_USER_EVENTS:
        shown = [history[len(history) - events :] for history in some.histories]
        ranks = some.rank(lambda users, shown=shown: score([shown[user] for user in users]))  # type: ignore[misc]
        records[str(events)] = _slice(ranks)
    return {**records, "all": _slice(found.take(able))}


def _partners(panel: Panel, found: Ranks, extras: Extras) -> PartnersRecord:
    numbers = np.unique(panel.partner_U)
    values_P = partner_means(per_user(found, VERDICT), panel.partner_U, int(numbers[-1]) + 1)
    gained = {} if extras.alone is None else gains(found, extras.alone, panel.partner_U, VERDICT)
    given = contributions(found, extras.without, panel.partner_U, VERDICT)
    users_P = np.bincount(panel.partner_U)
    each = [
        _partner(
            _name(extras, int(number)),
            int(users_P[number]),
            float(values_P[number]),
            gained.get(int(number)),
            given.get(int(number)),
        )
        for number in numbers
    ]
    over = spread(values_P)
    return PartnersRecord(
        metric=VERDICT,
        each=each,
        mean=over.mean,
        worst=over.worst,
        bottom=over.bottom,
        gini=over.gini,
        gaining=sum(gain.mean >= 0.0 for gain in gained.values()) / len(gained) if gained else None,
    )


def _partner(name: str, users: int, value: float, gain: Gain | None, given: Gain | None) -> PartnerFigures:
    return PartnerFigures(
        name=name,
        users=users,
        value=value,
        gain=None if gain is None else gain.mean,
        gain_error=None if gain is None else gain.error,
        contribution=None if given is None else given.mean,
        contribution_error=None if given is None else given.error,
    )


def _name(extras: Extras, number: int) -> str:
    return extras.partner_names[number] if number < len(extras.partner_names) else str(number)


def _lists(panel: Panel, lists_UK: Ints, items: ItemFacts) -> ListsRecord:
    counts_N, n_items, users = panel.counts_N, panel.task.n_items, max(1, panel.train.shape[0])
    distance = {
        name: _mean(diversity.intra_list_distance(lists_UK, vectors, items.present[name]))
        for name, vectors in items.vectors.items()
    }
    return ListsRecord(
        k=lists_UK.shape[1],
        coverage=beyond_accuracy.coverage(lists_UK, n_items=n_items),
        gini=beyond_accuracy.gini(lists_UK, n_items=n_items),
        entropy_bits=beyond_accuracy.entropy(lists_UK, n_items=n_items),
        novelty_bits=beyond_accuracy.novelty(lists_UK, counts_N, users=users),
        popularity_complement=beyond_accuracy.popularity_complement(lists_UK, counts_N, users=users),
        free_discovery_bits=beyond_accuracy.free_discovery(lists_UK, counts_N),
        tail_share=_mean(diversity.tail_share(lists_UK, diversity.long_tail(counts_N))) or _NOTHING,
        distance={name: figure for name, figure in distance.items() if figure is not None},
        divergence=_mean(diversity.category_divergence(lists_UK, panel.histories, items.category_N)),
    )


def _mean(values_U: Floats) -> MeanFigure | None:
    """Over the users for whom it is defined; null for nobody."""
    known = values_U[~np.isnan(values_U)]
    if known.size == 0:
        return None
    return MeanFigure(
        value=float(known.mean()), error=float(known.std() / math.sqrt(known.size)), users=int(known.size)
    )


_NOTHING = MeanFigure(value=0.0, error=0.0, users=0)
