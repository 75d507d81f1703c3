"""The coordinator as a Flower ServerApp: one run, from `workspace/plan.json` to `workspace/coordinator/`.

Reads the plan; writes `run.jsonl` (what happened), `rounds/` (a snapshot after every round) and `final.safetensors`
(what is exported, with all that travels beside it). Started again after a crash, it goes on with the round after the
newest whole snapshot. It holds no user data and reads none. The folder also holds its key, the partners' public keys
and the heads of their ledgers (`server.sites`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from mmrec_model.activity import cap_array
from mmrec_model.config import RunConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.errors import ConfigError, MmrecError, ModelError
from mmrec_model.model.recommender import initial_state
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.protocol import BESIDE, CLIP_SHARE, WITNESS, Arrays, arrays_digest
from server import activity, collaboration, gate
from server.checkpoint import CheckpointStore, Snapshot, export_state
from server.exchange import online
from server.journal import Journal, WaveFacts, read_journal
from server.messages import pack_arrays
from server.releases import (
    describe,
    release_activity,
    release_comparison,
    release_metrics,
    release_pairs,
    release_popularity,
    send_receipts,
    send_scorer,
)
from server.sites import Sites
from server.strategy import PrivateFederation
from server.waves import Enrolment, VoidWave
from server.witness import WitnessWatch

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Flower's entry: run config `workspace` names the folder."""
    workspace = str(context.run_config.get("workspace", ""))
    if not workspace:
        raise ConfigError(
            "the run config has no workspace", remedy="Pass --run-config 'workspace=\"/absolute/folder\"'"
        )
    coordinate(grid, Path(workspace), initial_state)


def coordinate(grid: Grid, workspace: Path, initial: Callable[[RunConfig], Arrays]) -> Snapshot:
    """Run the plan of a workspace to its end.

    Args:
        grid: the transport.
        workspace: holds `plan.json`; `coordinator/` is written.
        initial: the trained arrays before round 1.

    Returns:
        The last snapshot, with the averaged state that is exported.

    Raises:
        MmrecError: the run cannot go on; the reason is also the `failed` event of `run.jsonl`.
    """
    config = read_plan(workspace / "plan.json")
    folder = workspace / "coordinator"
    journal = Journal(folder / "run.jsonl")
    try:
        with Sites.open(folder) as sites:
            final, scorer = _train(grid, config, journal, initial, sites)
            export_state(folder / "final.safetensors", final, scorer, run_id=config.run_id, plan_digest=config.digest)
            journal.write("finished", round=final.round, model_digest=final.digest)
            return final
    except MmrecError as error:
        # The journal of a folder belongs to the coordinator that holds its lock.
        if not (isinstance(error, LedgerFault) and error.code is FaultCode.LOCKED):
            facts = error.facts.to_json() if isinstance(error, VoidWave) else {}
            journal.write("failed", problem=error.problem, remedy=error.remedy, **facts)
        raise


def read_plan(path: Path) -> RunConfig:
    """The plan of a workspace.

    Raises:
        ConfigError: no such file, or not a valid plan.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist", remedy="Make a workspace first, for example with mmrec simulate")
    return parse_config(RunConfig, path.read_text(encoding="utf-8"), source=str(path))


def _train(
    grid: Grid, config: RunConfig, journal: Journal, initial: Callable[[RunConfig], Arrays], sites: Sites
) -> tuple[Snapshot, Arrays]:
    store = CheckpointStore(journal.path.with_name("rounds"), config.digest)
    nodes = online(grid, minimum=config.minimum_cohort, timeout=config.round_timeout)
    enrolment, facts = describe(grid, config, nodes, sites)
    journal.write("described", users=dict(enrolment.users), **facts.to_json())
    snapshot = store.newest()
    if snapshot is None:
        carried = _bound(grid, config, enrolment, sites, journal)
        snapshot, facts = release_popularity(grid, config, enrolment, _checked(initial(config)), sites, carried)
        store.save(snapshot, facts.to_json())
        journal.write("popularity", model_digest=snapshot.digest, **facts.to_json())
    else:
        enrolment = _same_partners(enrolment, snapshot, config)
        journal.write("resumed", round=snapshot.round, model_digest=snapshot.digest, damaged=store.damaged)

    snapshot, scorer = _collaborate(grid, config, enrolment, sites, journal, snapshot)
    witness = WitnessWatch(config, enrolment.users)
    evaluate = partial(_evaluate, grid, config, enrolment, sites, journal)

    def keep(after: Snapshot, facts: WaveFacts) -> None:
        store.save(after, facts.to_json())
        journal.write("round", model_digest=after.digest, witness=witness.ratios, **facts.to_json())
        evaluate(after, after.round)

    evaluate(snapshot, snapshot.round)  # a crash may have cut it off
    strategy = PrivateFederation(config, enrolment, snapshot, sites=sites, witness=witness, on_round=keep)
    strategy.start(
        grid=grid,
        initial_arrays=pack_arrays(snapshot.travelling),
        num_rounds=max(0, config.training.rounds - snapshot.round),
        timeout=config.round_timeout,
    )
    final = store.averaged(strategy.snapshot, config.training.averaged_share)
    if store.left_out:
        journal.write("averaged", round=final.round, left_out=store.left_out)
    if config.gate.metric is not None:
        final = _gate(grid, config, enrolment, sites, journal, final, initial(config))
    evaluate(final, final.round + 1)
    journal.write("receipts", **send_receipts(grid, config, enrolment, sites).to_json())
    return final, scorer


def _bound(grid: Grid, config: RunConfig, enrolment: Enrolment, sites: Sites, journal: Journal) -> Arrays:
    """What the popularity request carries: the cap that activity gives, now or before, if the plan asks."""
    if not config.privacy.activity_quantile:
        return {}
    folder = journal.path.parent
    cap = activity.find(folder, config)
    if cap is None:
        counts, noise, facts = release_activity(grid, config, enrolment, sites)
        chosen = activity.choose(config, counts, noise)
        activity.keep(folder, config, chosen)
        journal.write("activity", **chosen, **facts.to_json())
        cap = int(chosen["cap"])
    return cap_array(cap)


def _collaborate(  # noqa: PLR0917 - the parts of one round
    grid: Grid, config: RunConfig, enrolment: Enrolment, sites: Sites, journal: Journal, snapshot: Snapshot
) -> tuple[Snapshot, Arrays]:
    """The snapshot with its collaborative scorer, made now or before, and brought to the partners."""
    if not config.collaboration.released:
        return snapshot, {}
    folder = journal.path.parent
    scorer = collaboration.find(folder, config, snapshot)
    if not scorer:
        features, asked = folder.parent / "features", config.collaboration
        selected = collaboration.selection(folder, config, snapshot, features)
        released, noise, facts = release_pairs(grid, config, enrolment, sites, selected)
        journal.write("pairs", items=asked.items, dims=asked.dims, **facts.to_json())
        scorer, found = collaboration.make_scorer(config, features, selected, released, noise, snapshot.prior)
        collaboration.keep(folder, config, scorer, found)
    digest = arrays_digest(scorer)
    journal.write("scorer", scorer=digest, **send_scorer(grid, config, enrolment, sites, scorer).to_json())
    return replace(snapshot, scorer=digest), scorer


def _gate(  # noqa: PLR0917 - the parts of one round
    grid: Grid,
    config: RunConfig,
    enrolment: Enrolment,
    sites: Sites,
    journal: Journal,
    final: Snapshot,
    initial: Arrays,
) -> Snapshot:
    """The rung that the partners' release is best for."""
    measured, facts = release_comparison(grid, config, enrolment, final, sites)
    verdict = gate.decide(config, measured)
    journal.write("gate", model_digest=final.digest, metric=config.gate.metric, **verdict.to_json(), **facts.to_json())
    return gate.gated(config, final, verdict, initial)


def _evaluate(  # noqa: PLR0917 - the parts of one round
    grid: Grid, config: RunConfig, enrolment: Enrolment, sites: Sites, journal: Journal, state: Snapshot, round_: int
) -> None:
    """Have `state` evaluated, if the plan says so after `round_` and the journal has no figure of it yet."""
    if round_ not in config.evaluated_rounds or _is_evaluated(journal, state, round_):
        return
    measured, facts = release_metrics(grid, config, enrolment, state, sites, round_)
    figures = measured.to_json() if measured else None
    journal.write("evaluated", model_digest=state.digest, measured=figures, **facts.to_json())


def _is_evaluated(journal: Journal, state: Snapshot, round_: int) -> bool:
    told = (event for event in read_journal(journal.path) if event.get("event") == "evaluated" and event["measured"])
    return any((event["round"], event["model_digest"]) == (round_, state.digest) for event in told)


def _checked(state: Arrays) -> Arrays:
    reserved = BESIDE | {CLIP_SHARE, WITNESS}
    if reserved & set(state) or not state:
        raise ModelError(
            f"the trained arrays {sorted(state)[:5]} are empty or hold one of {sorted(reserved)}", remedy="Rename it"
        )
    return state


def _same_partners(enrolment: Enrolment, snapshot: Snapshot, config: RunConfig) -> Enrolment:
    """Only partners of the first start go on, with the weights of the first start."""
    known = {node: name for node, name in enrolment.nodes.items() if name in snapshot.partners}
    changed = [name for name in known.values() if enrolment.users[name] != snapshot.partners[name]]
    if changed or len(known) < config.minimum_cohort:
        raise ModelError(
            f"cannot resume: {len(known)} of {len(snapshot.partners)} partners are back (at least "
            f"{config.minimum_cohort} needed), and {len(changed)} state another number of users {changed[:3]}",
            remedy="Start the missing partners, restore the enrolled number of users, or begin a new run",
        )
    return Enrolment(known, {name: snapshot.partners[name] for name in sorted(known.values())})
