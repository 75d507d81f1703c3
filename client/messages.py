"""One Flower message is two flat mappings (`mmrec_model.protocol`); the partner's side of the codec.

A request is read as strictly as the coordinator reads a reply: exactly two records, exactly the fields of the contract,
arrays whose bytes are what they announce (`mmrec_model.wire_arrays`).
"""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from mmrec_model.errors import ProtocolError
from mmrec_model.protocol import ARRAYS, FIELDS, Arrays, Reply, Request, from_fields, to_fields
from mmrec_model.wire_arrays import read_npy


def read_request(message: Message) -> tuple[Request, Arrays]:
    """The coordinator's request and its arrays as float32.

    Raises:
        ProtocolError: other records or fields than the contract has, or an array that is not float32.
    """
    content = message.content
    if set(content) != {FIELDS, ARRAYS} or FIELDS not in content.config_records or ARRAYS not in content.array_records:
        raise ProtocolError(
            f"the message holds the records {sorted(content)}, the contract says '{FIELDS}' and '{ARRAYS}'",
            remedy="Install the same minor version of mmrec on both sides",
        )
    request = from_fields(Request, content.config_records[FIELDS])
    arrays: Arrays = {}
    for name, array in content.array_records[ARRAYS].items():
        values = read_npy(name, array.stype, array.data)
        if values.dtype != np.dtype("<f4"):
            raise ProtocolError(f"array '{name}' is {values.dtype}, not float32", remedy="Upgrade the older side")
        arrays[name] = values.astype(np.float32)
    return request, arrays


def named_request(message: Message) -> Request:
    """What the refusal of a request that cannot be read must repeat of it, so that its sender knows which is meant."""
    records = message.content.config_records if message.has_content() else {}
    said = dict(records[FIELDS]) if FIELDS in records else {}
    run_id, number, digest = said.get("run_id"), said.get("round"), said.get("model_digest")
    return Request(
        run_id if isinstance(run_id, str) else "",
        number if type(number) is int else 0,
        plan="",
        model_digest=digest if isinstance(digest, str) else "",
    )


def write_reply(reply: Reply, arrays: Arrays, *, to: Message) -> Message:
    """The answer to `to`; everything a partner sends goes through here."""
    record = ArrayRecord({name: Array(np.ascontiguousarray(arrays[name])) for name in sorted(arrays)})
    return Message(RecordDict({FIELDS: ConfigRecord(dict(to_fields(reply))), ARRAYS: record}), reply_to=to)
