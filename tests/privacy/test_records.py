from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec_model.canonical import canonical_json
from mmrec_model.privacy.bodies import BODIES, RecordType
from mmrec_model.privacy.events import from_record
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.fields import LARGEST_WHOLE, is_leak
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.privacy.records import LINE_LIMIT, NO_RECORD, Record, read_line, sign_record

GOOD: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "ledger" / "bodies.json").read_text()
)
KEY = SigningKey.from_seed(bytes(range(32)))
GOOD["open"] |= {"key_id": KEY.public.key_id, "public_key": KEY.public.hexadecimal}


def code_of(record_type: str, body: dict[str, Any]) -> FaultCode:
    with pytest.raises(LedgerFault) as caught:
        sign_record(1, NO_RECORD, record_type, body, KEY)
    return caught.value.code


def test_the_tables_are_the_fourteen_types_of_the_design() -> None:
    assert set(BODIES) == set(RecordType) == set(GOOD)


@pytest.mark.parametrize("record_type", RecordType)
def test_a_record_reads_back_as_it_was_written(record_type: RecordType) -> None:
    record = sign_record(7, NO_RECORD, record_type, GOOD[record_type], KEY)
    assert read_line(record.line.rstrip(b"\n"), 7) == record
    assert len(record.line) < 1500


@pytest.mark.parametrize("record_type", RecordType)
def test_every_field_is_required_and_none_may_be_added(record_type: RecordType) -> None:
    for name in GOOD[record_type]:
        assert code_of(record_type, {key: item for key, item in GOOD[record_type].items() if key != name}) == "schema"
    assert code_of(record_type, {**GOOD[record_type], "remark": "x"}) == "schema"


@pytest.mark.parametrize("record_type", RecordType)
@pytest.mark.parametrize("value", [[], {"x": []}, True, "\0", -(2**60)], ids=str)
def test_no_field_takes_a_value_of_another_type(record_type: RecordType, value: Any) -> None:
    for name in GOOD[record_type]:
        if isinstance(value, bool) and name == "users_public":
            continue
        if isinstance(value, list) and name == "mechanisms":
            continue
        assert code_of(record_type, {**GOOD[record_type], name: value}) in {FaultCode.SCHEMA, FaultCode.LEAK}


@pytest.mark.parametrize("record_type", RecordType)
@pytest.mark.parametrize(
    "name",
    [
        "batch_size",
        "batch_sizes",
        "realised_batch_size",
        "sampled_ids",
        "user_ids",
        "clip_fraction",
        "loss",
        "train_losses",
        "gradient_norm",
        "update_norms",
        "seed",
        "noise_seed",
        "abort_reason",
    ],
)
def test_what_depends_on_the_sampled_users_has_no_place_in_any_record(record_type: RecordType, name: str) -> None:
    assert code_of(record_type, {**GOOD[record_type], name: 3}) is FaultCode.LEAK


def test_open_lists_of_settings_do_not_take_them_either() -> None:
    plan = GOOD["plan"]
    assert code_of("plan", {**plan, "hyper_parameters": {"seed": 3}}) is FaultCode.LEAK
    assert code_of("code", {**GOOD["code"], "versions": {"train_loss": "0.3"}}) is FaultCode.LEAK


@pytest.mark.parametrize("name", ["max_grad_norm", "sample_rate", "noise_multiplier", "steps", "micro_batch", "key_id"])
def test_public_limits_are_no_leak(name: str) -> None:
    assert not is_leak(name)


def test_a_refusal_of_a_leak_does_not_show_the_value() -> None:
    with pytest.raises(LedgerFault) as caught:
        sign_record(1, NO_RECORD, "code", {**GOOD["code"], "loss": 0.73125}, KEY)
    assert "0.73125" not in str(caught.value)


@given(st.floats(min_value=0.0, exclude_min=True, allow_infinity=False))
def test_a_float_is_a_decimal_string_in_the_file_and_the_same_float_when_read(value: float) -> None:
    record = sign_record(1, NO_RECORD, "reserve", {**GOOD["reserve"], "sensitivity": value}, KEY)
    again = read_line(record.line[:-1], 1)
    assert again.body["sensitivity"] == repr(value)
    assert again.number("sensitivity") == value


def test_a_float_of_numpy_is_stored_like_any_other() -> None:
    record = sign_record(1, NO_RECORD, "reserve", {**GOOD["reserve"], "sensitivity": np.float64(1.1)}, KEY)
    assert record.body["sensitivity"] == "1.1"


@pytest.mark.parametrize(
    "value", ["1", "1.10", "+1.1", " 1.1", "1_0.0", "1e5", "nan", "inf", "0x1p3", 1, "\u0661.\u0661"]
)
def test_a_float_has_one_spelling(value: Any) -> None:
    assert code_of("reserve", {**GOOD["reserve"], "sensitivity": value}) is FaultCode.SCHEMA


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, object(), {1: 2}, b"x"], ids=str)
def test_values_without_a_place_in_the_format_are_refused(value: Any) -> None:
    assert code_of("reserve", {**GOOD["reserve"], "sensitivity": value}) is FaultCode.SCHEMA


@pytest.mark.parametrize(
    "mechanism",
    [
        {"type": "laplace", "scale": 1.0},
        {"type": "gaussian", "noise_multiplier": 0.0, "count": 1},
        {"type": "gaussian", "noise_multiplier": 1.0, "count": 0},
        {"type": "gaussian", "noise_multiplier": 1.0},
        {"type": "gaussian", "noise_multiplier": 1.0, "count": True},
        {"type": "sampled_gaussian", "noise_multiplier": 1.0, "sample_rate": 1.1, "steps": 1},
        {"type": "sampled_gaussian", "noise_multiplier": 1.0, "sample_rate": 0.0, "steps": 1},
        {"type": "non_private", "count": 1},
        {},
        "gaussian",
        None,
    ],
    ids=str,
)
def test_an_unknown_or_incomplete_mechanism_is_refused_never_approximated(mechanism: Any) -> None:
    assert code_of("reserve", {**GOOD["reserve"], "mechanism": mechanism}) is FaultCode.SCHEMA


@pytest.mark.parametrize(
    "mechanism",
    [
        {"type": "gaussian", "noise_multiplier": 5.0, "count": 2},
        {"type": "sampled_gaussian", "noise_multiplier": 1.1, "sample_rate": 0.05, "steps": 20},
        {"type": "non_private"},
    ],
    ids=str,
)
def test_a_charge_is_an_event_that_the_accountants_read(mechanism: dict[str, object]) -> None:
    record = sign_record(1, NO_RECORD, "reserve", {**GOOD["reserve"], "mechanism": mechanism}, KEY)
    assert record.charge == mechanism
    assert from_record(mechanism) is not None


def test_whole_numbers_stay_within_what_every_json_reader_keeps() -> None:
    sign_record(1, NO_RECORD, "reserve", {**GOOD["reserve"], "round": LARGEST_WHOLE}, KEY)
    assert code_of("reserve", {**GOOD["reserve"], "round": LARGEST_WHOLE + 1}) is FaultCode.SCHEMA


def test_a_line_longer_than_the_limit_is_refused_on_writing_and_on_reading() -> None:
    versions = {f"library {number}": "1" * 200 for number in range(400)}
    assert code_of("code", {**GOOD["code"], "versions": versions}) is FaultCode.SCHEMA
    with pytest.raises(LedgerFault) as caught:
        read_line(b'"' + b"x" * LINE_LIMIT + b'"', 0)
    assert caught.value.code is FaultCode.FORM


RECORD = sign_record(1, NO_RECORD, "reserve", GOOD["reserve"], KEY)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"1" * 5000,
        b"[" * 60000,
        b"\xff\xfe",
        b'"\\ud800"',
        b'{"v":1}',
        b'{"v":1,"v":1}',
        canonical_json({**RECORD.content, "hash": RECORD.hash}),
        canonical_json({**RECORD.content, "hash": RECORD.hash, "sig": None}),
        canonical_json({**RECORD.content, "hash": RECORD.hash, "sig": RECORD.sig, "seq": True}),
        canonical_json({**RECORD.content, "hash": RECORD.hash, "sig": RECORD.sig, "body": "x"}),
        json.dumps(json.loads(RECORD.line)).encode(),
    ],
    ids=lambda line: repr(line[:20]),
)
def test_a_line_that_is_not_one_canonical_record_is_a_form_fault(line: bytes) -> None:
    with pytest.raises(LedgerFault) as caught:
        read_line(line, 0)
    assert caught.value.code is FaultCode.FORM


@pytest.mark.parametrize("version", [0, 2, True, "1", None])
def test_another_version_is_refused(version: Any) -> None:
    line = canonical_json({**RECORD.content, "hash": RECORD.hash, "sig": RECORD.sig, "v": version})
    with pytest.raises(LedgerFault) as caught:
        read_line(line, 0)
    assert caught.value.code is FaultCode.VERSION


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail_with_another_error(content: bytes) -> None:
    with pytest.raises(LedgerFault):
        read_line(content, 0)


def test_a_typed_accessor_refuses_another_type() -> None:
    assert (RECORD.whole("round"), RECORD.text("kind"), RECORD.maybe_number("sensitivity")) == (1, "train", 1.0)
    assert Record(1, NO_RECORD, "close", {"run_id": None, "reason": "stopped"}, "", "").maybe_text("run_id") is None
    with pytest.raises(TypeError):
        RECORD.text("round")
