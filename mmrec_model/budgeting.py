"""How a target (epsilon, delta) is split over the rungs of the ladder, from public facts alone, and why.

The budget is counted in squared mu of Gaussian differential privacy, which adds up over releases (Dong, Roth & Su
2022): a release with share s of it has noise multiplier 1 / (mu sqrt(s)). The last rung that a plan has is calibrated
exactly for whatever the others leave, by the accountant that will enforce the plan.

Which rungs are worth their share follows from four public numbers: users, partners (each adds noise of its own), items
and epsilon. No user's data is looked at, so planning costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from mmrec_model.config import PrivacyConfig, TrainingConfig
from mmrec_model.config_ladder import GATE_METRIC, CollaborationConfig, EvaluationConfig, GateConfig
from mmrec_model.config_types import MetricName
from mmrec_model.errors import PrivacyError
from mmrec_model.ladder import rung_names
from mmrec_model.pair_forms import FEWEST_ITEMS, LEAST_SIGNAL, PairForms, choose_forms
from mmrec_model.privacy.calibration import calibrate
from mmrec_model.privacy.events import GaussianRelease, PrivacyEvent, SampledGaussian
from mmrec_model.privacy.gaussian_dp import gaussian_mu

POPULARITY_SHARE: Final = 0.1
"""Of the squared budget, for the popularity prior; half of it where pairs are all that comes after it."""
ACTIVITY_SHARE: Final = 0.02
"""For the users' activity, where a plan has the cap of the popularity release chosen by it: a few large numbers."""
EVALUATION_SHARE: Final = 0.05
"""For all metric releases of a run together, where it has any."""
GATE_ERROR: Final = 0.005
"""Standard error that the gate's scores should have from noise; its share of the budget follows from it."""
GATE_SHARES: Final = (0.01, 0.15)
"""Least and largest share for the gate's one comparison."""
PAIRS_SHARES: Final = ((120.0, 0.8), (LEAST_SIGNAL, 0.5))
"""For the pairs of a plan that trains too, by the signal from which on a share is right; without training they get all
that is left (`mmrec_model.pair_forms`). Seen on two sets: at 150 pairs of items beat training, at 80 training beat
them."""
FEATURES_POPULARITY: Final = 0.3
"""For the popularity prior in a plan of it and pairs of features alone: such federations are small, the prior's noise
is in every score, and with .05 of the budget it cost more than pairs of features bring."""
TRAINING_SHARE: Final = 0.05
"""For training at least, in a plan that trains; pairs give way to it."""
Events: TypeAlias = tuple[PrivacyEvent, ...]


@dataclass(frozen=True)
class PublicFacts:
    """What everybody may know of a federation.

    Attributes:
        users: of all partners, as enrolled.
        partners: each of which draws noise of its own.
        items: of the catalogue.
        width: of the features that the model reads, all modalities together; 0 plans without pairs of features.
    """

    users: int
    partners: int
    items: int
    width: int = 0


@dataclass(frozen=True)
class Budget:
    """The priced parts of a plan.

    Attributes:
        privacy: noise of popularity and training.
        evaluation: metrics of the run, with their noise.
        collaboration: the pairs, with their noise.
        gate: the comparison at the end, with its noise.
        reasons: why the rungs got what they got, one sentence each.
    """

    privacy: PrivacyConfig
    evaluation: EvaluationConfig
    collaboration: CollaborationConfig
    gate: GateConfig
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Wish:
    """What a run would like to release.

    Attributes:
        evaluation: metrics during the run.
        pairs: whether pairs may be released.
        gate: metric by which the exported rung is chosen; None for no gate.
        max_grad_norm: L2 bound of a user's gradient.
        popularity_cap: distinct items of a user that the popularity release counts.
        activity_quantile: share of the users by whose activity a smaller cap is chosen; 0 for none.
    """

    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    pairs: bool = True
    gate: MetricName | None = GATE_METRIC
    max_grad_norm: float = 1.0
    popularity_cap: int = 20
    activity_quantile: float = 0.0


def plan_budget(
    epsilon: float, delta: float, training: TrainingConfig, facts: PublicFacts, wish: Wish | None = None
) -> Budget:
    """The noise multipliers with which the whole plan costs at most `epsilon` at `delta` (relation zero-out).

    Args:
        epsilon: target, above 0; infinity means without privacy.
        delta: in (0, 1).
        training: rounds, steps and rate of the plan; with 0 rounds nothing is trained.
        facts: sizes of the federation.
        wish: what it would like to release; by default no metrics, pairs where they pay, and the gate.

    Raises:
        PrivacyError: a target that is not a positive number.
    """
    if math.isnan(epsilon) or epsilon <= 0.0:
        raise PrivacyError(f"epsilon is {epsilon}, it must be above 0", remedy="Give e.g. 8, or inf for no privacy")
    wish = wish or Wish()
    if math.isinf(epsilon):
        return _without_noise(delta, facts, wish)
    return _Split(epsilon, delta, training, facts, wish).budget()


def _without_noise(delta: float, facts: PublicFacts, wish: Wish) -> Budget:
    forms = choose_forms(facts.items, facts.width, math.inf if wish.pairs else 0.0)
    return Budget(
        _privacy(None, delta, wish, noise=0.0, popularity=0.0),
        wish.evaluation,
        CollaborationConfig(items=forms.items, dims=forms.dims),
        GateConfig(metric=wish.gate),
        ("Nothing is noised: no share has to be chosen.",),
    )


class _Split:
    """One way through the rungs: fixed shares first, then the rest to the last rung."""

    def __init__(self, epsilon: float, delta: float, training: TrainingConfig, facts: PublicFacts, wish: Wish) -> None:
        self._epsilon, self._delta, self._training, self._facts, self._wish = epsilon, delta, training, facts, wish
        self._mu = gaussian_mu(epsilon, delta)
        self._trains = training.rounds > 0
        self._reasons: list[str] = []
        self._share = 0.0
        self._forms = PairForms(0, 0, 0.0, 0)

    def budget(self) -> Budget:
        """Everything, with reasons."""
        wish, has_pairs = self._wish, self._choose_forms()
        releases = len(wish.evaluation.releases(self._training.rounds))
        evaluation_noise = self._noise(EVALUATION_SHARE / releases) if releases else 0.0
        gate_share = self._gate_share(has_pairs=has_pairs) if wish.gate else 0.0
        gate_noise = self._noise(gate_share) if wish.gate else 0.0
        activity = self._noise(ACTIVITY_SHARE) if wish.activity_quantile else 0.0
        popularity = self._noise(self._popularity_share())
        fixed: Events = tuple(
            GaussianRelease(noise, count)
            for noise, count in ((evaluation_noise, releases), (gate_noise, 1), (activity, 1))
            if noise
        )
        pairs, training = 0.0, 0.0
        if not self._trains and not has_pairs:
            popularity = self._rest(lambda sigma: (GaussianRelease(sigma), *fixed))
            training = popularity
        elif not self._trains:
            fixed = (*fixed, GaussianRelease(popularity))
            pairs = training = self._rest(lambda sigma: (GaussianRelease(sigma), *fixed))
        else:
            fixed = (*fixed, GaussianRelease(popularity))
            if has_pairs:
                others = POPULARITY_SHARE + gate_share + (EVALUATION_SHARE if releases else 0.0) + TRAINING_SHARE
                others += ACTIVITY_SHARE if activity else 0.0
                self._share = min(self._share, 1.0 - others)
                pairs = self._noise(self._share)
                fixed = (*fixed, GaussianRelease(pairs))
            rate, steps = self._training.sample_rate, self._training.rounds * self._training.local_steps
            training = self._rest(lambda sigma: (*fixed, SampledGaussian(rate, sigma, steps)))
        self._explain(pairs)
        return Budget(
            _privacy(self._epsilon, self._delta, wish, noise=training, popularity=popularity, activity=activity),
            wish.evaluation.model_copy(update={"noise_multiplier": evaluation_noise}),
            CollaborationConfig(items=self._forms.items, dims=self._forms.dims, noise_multiplier=pairs),
            GateConfig(metric=wish.gate, noise_multiplier=gate_noise),
            tuple(self._reasons),
        )

    def _noise(self, share: float) -> float:
        return 1.0 / (math.sqrt(share) * self._mu)

    def _rest(self, events_of: Callable[[float], Events]) -> float:
        return calibrate(self._epsilon, self._delta, events_of)

    def _popularity_share(self) -> float:
        if self._trains or not (self._forms.items or self._forms.dims):
            return POPULARITY_SHARE
        return POPULARITY_SHARE / 2 if self._forms.items else FEATURES_POPULARITY

    def _choose_forms(self) -> bool:
        """Whether pairs are released, of whatever form."""
        facts = self._facts
        if not self._wish.pairs:
            self._reasons.append("Pairs of items are not released: the run does not ask for them.")
            return False
        strength = facts.users / (self._noise(1.0) * math.sqrt(facts.partners))
        self._forms = choose_forms(facts.items, facts.width, strength)
        if not (self._forms.items or self._forms.dims):
            self._reasons.append(
                f"Pairs of items are not released: {facts.users:,} users raise those of {self._forms.reachable} items "
                f"above the noise of {facts.partners} partners, and fewer than {FEWEST_ITEMS} are not worth it."
            )
            return False
        self._share = next(share for enough, share in PAIRS_SHARES if self._forms.signal >= enough)
        return True

    def _gate_share(self, *, has_pairs: bool) -> float:
        """The share at which the scores have the error aimed at, within its bounds; every user may have one to give."""
        width = len(rung_names(pairs=has_pairs, trained=self._trains)) + 1
        noise = GATE_ERROR * self._facts.users / math.sqrt(self._facts.partners * width)
        low, high = GATE_SHARES
        share = min(max(1.0 / (noise * self._mu) ** 2, low), high)
        error = self._noise(share) * math.sqrt(self._facts.partners * width) / self._facts.users
        self._reasons.append(f"The gate gets {share:.1%} of the budget: its scores then have a standard error of "
                             f"{error:.2g} from noise.")  # fmt: skip
        return share

    def _explain(self, pairs: float) -> None:
        facts, items, dims = self._facts, self._forms.items, self._forms.dims
        if self._wish.activity_quantile:
            self._reasons.append(
                f"The users' activity gets {ACTIVITY_SHARE:.0%} of the budget: popularity then counts as many items of "
                f"a user as {self._wish.activity_quantile:.0%} of the users have, {self._wish.popularity_cap} at most."
            )
        if items:
            whole = "all" if items == facts.items else f"the {items:,} most popular"
            self._reasons.append(
                f"Pairs of {whole} of {facts.items:,} items are released with noise multiplier {pairs:.3g} at each of "
                f"{facts.partners} partners: {facts.users:,} users are enough for that many."
            )
        if dims and items:
            self._reasons.append(
                f"In the same release are pairs of features in {dims} dimensions: the catalogue is much larger than "
                "the selected items, and features say something of the rest."
            )
        elif dims:
            self._reasons.append(
                f"Pairs of features in {dims} dimensions are released, and none of items, with noise multiplier "
                f"{pairs:.3g} at each of {facts.partners} partners: {facts.users:,} users raise {dims} dimensions "
                f"further above the noise than {facts.items:,} items."
            )
        if not self._trains:
            self._reasons.append("Nothing is trained: the last release gets what the others leave.")
        elif items or dims:
            self._reasons.append(
                f"Pairs get {self._share:.0%} of the budget and training what is left: with many users one round of "
                "pairs says more per unit of noise than many rounds of gradients, with few it is the other way round."
            )
        else:
            self._reasons.append("Training gets all that popularity and the gate leave.")


def _privacy(
    epsilon: float | None, delta: float, wish: Wish, *, noise: float, popularity: float, activity: float = 0.0
) -> PrivacyConfig:
    return PrivacyConfig(
        mechanism="none" if epsilon is None else "gaussian",
        epsilon=None if epsilon is None else float(epsilon),
        delta=delta,
        noise_multiplier=noise,
        max_grad_norm=wish.max_grad_norm,
        popularity_noise_multiplier=popularity,
        popularity_cap=wish.popularity_cap,
        activity_quantile=wish.activity_quantile,
        activity_noise_multiplier=activity,
    )
