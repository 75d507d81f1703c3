"""One Flower message is two flat mappings: `protocol.FIELDS` (text and whole numbers) and `protocol.ARRAYS` (float32).

`deliver` reads messages that anybody may have written (arrays by `mmrec_model.wire_arrays`) and turns every malformed
one into a counted refusal. What the arrays must be called, and which shape and size they must have, is decided later,
by `server.admission`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from mmrec_model.errors import AdmissionError, ProtocolError
from mmrec_model.protocol import ARRAYS, FIELDS, Arrays, Reply, Request, from_fields, to_fields
from mmrec_model.wire_arrays import read_npy
from server.admission import AnyArrays, Reason, refuse
from server.waves import Delivery, Opened


def pack(message: Request | Reply, arrays: Arrays) -> RecordDict:
    """The two records of a message; `arrays` may be empty."""
    return RecordDict({FIELDS: ConfigRecord(dict(to_fields(message))), ARRAYS: pack_arrays(arrays)})


def pack_arrays(arrays: Arrays) -> ArrayRecord:
    """Named arrays as one record, in name order."""
    return ArrayRecord({name: Array(np.ascontiguousarray(arrays[name])) for name in sorted(arrays)})


def wire_size(content: RecordDict) -> int:
    """Bytes of all serialised arrays plus those of the fields as compact JSON; transport overhead is not counted."""
    fields = sum(
        len(json.dumps(dict(record), separators=(",", ":"), default=repr).encode())
        for record in content.config_records.values()
    )
    return fields + sum(len(array.data) for record in content.array_records.values() for array in record.values())


def deliver(messages: Iterable[Message]) -> Iterator[Delivery]:
    """Read replies one by one, as they come; a reply that cannot be read carries its refusal."""
    for message in messages:
        try:
            yield Delivery(message.metadata.src_node_id, open_reply(message))
        except AdmissionError as refusal:
            yield Delivery(message.metadata.src_node_id, refusal)


def open_reply(message: Message) -> Opened:
    """Read a partner's message.

    Raises:
        AdmissionError: `error` for a failed partner; `protocol` for another version, unknown fields, other records
            than the two of the contract, or an array whose bytes are not the array that they announce.
    """
    if message.has_error():
        raise refuse(Reason.ERROR, f"the partner's app failed: {message.error.reason or message.error.code}")
    content = message.content
    if set(content) != {FIELDS, ARRAYS} or FIELDS not in content.config_records or ARRAYS not in content.array_records:
        raise refuse(Reason.PROTOCOL, f"the message holds the records {sorted(content)}, not '{FIELDS}' and '{ARRAYS}'")
    try:
        reply = from_fields(Reply, content.config_records[FIELDS])
    except ProtocolError as error:
        raise refuse(Reason.PROTOCOL, error.problem) from error
    return Opened(reply, unpack_arrays(content.array_records[ARRAYS]), wire_size(content))


def unpack_arrays(record: Mapping[str, Array]) -> AnyArrays:
    """Read named arrays without copying and without trusting their headers.

    Raises:
        AdmissionError: `protocol`, for a serialisation other than plain npy 1.0 or a length that does not fit.
    """
    try:
        return {name: read_npy(name, array.stype, array.data) for name, array in record.items()}
    except ProtocolError as error:
        raise refuse(Reason.PROTOCOL, error.problem) from error
