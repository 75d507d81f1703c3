"""One Flower message is two flat mappings (`mmrec_model.protocol`); the partner's side of the codec."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from mmrec_model.errors import ProtocolError
from mmrec_model.protocol import ARRAYS, FIELDS, Arrays, Reply, Request, from_fields, to_fields


def read_request(message: Message) -> tuple[Request, Arrays]:
    """The coordinator's request and its arrays as float32.

    Raises:
        ProtocolError: other records or fields than the contract has, or an array that is not float32.
    """
    content = message.content
    if set(content) != {FIELDS, ARRAYS}:
        raise ProtocolError(
            f"the message holds the records {sorted(content)}, the contract says '{FIELDS}' and '{ARRAYS}'",
            remedy="Install the same minor version of mmrec on both sides",
        )
    arrays: Arrays = {}
    for name, array in content.array_records[ARRAYS].items():
        values = array.numpy()
        if values.dtype != np.float32:
            raise ProtocolError(f"array '{name}' is {values.dtype}, not float32", remedy="Upgrade the older side")
        arrays[name] = values
    return from_fields(Request, content.config_records[FIELDS]), arrays


def write_reply(reply: Reply, arrays: Arrays, *, to: Message) -> Message:
    """The answer to `to`; everything a partner sends goes through here."""
    record = ArrayRecord({name: Array(np.ascontiguousarray(arrays[name])) for name in sorted(arrays)})
    return Message(RecordDict({FIELDS: ConfigRecord(dict(to_fields(reply))), ARRAYS: record}), reply_to=to)
