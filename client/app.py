"""The partner as a Flower ClientApp: decode, call the one exit, encode.

`node_config["site"]` names the partner's folder. Flower's own simulation gives its nodes a number instead of settings;
there, and only there, partition i is the i-th folder of `workspace/sites` of the run config.
"""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.messages import named_request, read_request, write_reply
from client.open_sites import OpenSites
from client.release import answer, refused
from mmrec_model.errors import ConfigError
from mmrec_model.protocol import Kind

app = ClientApp()
sites = OpenSites(most=64)
"""More partners than this in one process are simulated as well, but read their data at every message."""
logger = logging.getLogger(__name__)


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say who this partner is; reads nothing private."""
    return _answered(Kind.DESCRIBE, message, context)


@app.train("activity")
def release_activity(message: Message, context: Context) -> Message:
    """Release noised numbers of users by length of their histories."""
    return _answered(Kind.ACTIVITY, message, context)


@app.train("popularity")
def release_popularity(message: Message, context: Context) -> Message:
    """Release noised item counts."""
    return _answered(Kind.POPULARITY, message, context)


@app.train("pairs")
def release_pairs(message: Message, context: Context) -> Message:
    """Release the noised sum of item pairs."""
    return _answered(Kind.PAIRS, message, context)


@app.query("scorer")
def keep_scorer(message: Message, context: Context) -> Message:
    """Keep the scorer that was made of all pairs; reads nothing private."""
    return _answered(Kind.SCORER, message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Release one noised update."""
    return _answered(Kind.TRAIN, message, context)


@app.evaluate("metrics")
def release_metrics(message: Message, context: Context) -> Message:
    """Release noised sums of validation metrics."""
    return _answered(Kind.EVALUATE, message, context)


@app.evaluate("compare")
def release_comparison(message: Message, context: Context) -> Message:
    """Release noised sums of the gate's metric for each rung."""
    return _answered(Kind.COMPARE, message, context)


@app.query("receipt")
def keep_receipt(message: Message, context: Context) -> Message:
    """Keep the countersignature of the run's last ledger head; reads nothing private."""
    return _answered(Kind.RECEIPT, message, context)


def _answered(kind: Kind, message: Message, context: Context) -> Message:
    try:
        folder = site_folder(context)
        site = sites.at(folder)
    except Exception:
        # Flower sends the text of an exception to the coordinator; that of a site names places and values.
        logger.exception("this node's site cannot be opened")
        raise ConfigError("the site cannot be opened", remedy="The partner's own log has the details") from None
    try:
        request, arrays = read_request(message)
    except Exception as error:
        result = refused(site, kind, named_request(message), error)
    else:
        result = answer(site, kind, request, arrays)
    if kind is Kind.RECEIPT:
        sites.release(folder)
    return write_reply(result.reply, result.arrays, to=message)


def site_folder(context: Context) -> Path:
    """The folder of the partner that this node is.

    Raises:
        ConfigError: the node names neither a site nor a partition of a workspace that has it.
    """
    named = context.node_config.get("site")
    if named:
        return Path(str(named))
    partition, workspace = context.node_config.get("partition-id"), context.run_config.get("workspace")
    folders = sorted(Path(str(workspace), "sites").glob("*/site.toml")) if workspace else []
    if partition is None or not 0 <= int(partition) < len(folders):
        raise ConfigError(
            f"this node has no site: partition {partition} of {len(folders)} folders in '{workspace}'",
            remedy="Start the SuperNode with --node-config 'site=\"/absolute/folder\"', or match num-supernodes",
        )
    return folders[int(partition)].parent
