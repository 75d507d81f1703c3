"""The gateway forwards ten calls and nothing else, and its configuration says so by the same rule."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.supercore.routers.runtime.router import router as runtime
from flwr.superlink.routers.control.router import router as control
from flwr.superlink.routers.fleet.router import router as fleet
from hypothesis import given
from hypothesis import strategies as st

from mmrec_model.errors import ConfigError, UsageError
from mmrec_model.federation_file import FederationFile
from server.founding import found_federation
from server.gateway import FLEET_CALLS, Gateway, configuration, is_forwarded, nginx_command, plan_gateway, write_gateway
from tests.server.request_lines import CALL, FORWARDED, REFUSED

Founded = tuple[Path, FederationFile]
Directive = tuple[list[str], "list[Directive] | None"]
TOKEN = re.compile(r"""\s+|#[^\n]*|"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)'|([{};])|([^\s{};"']+)""")
CHUNK = 5_242_880


def parsed(text: str) -> list[Directive]:
    """nginx's grammar: words that end with a semicolon, or with a block."""
    stack: list[list[Directive]] = [[]]
    words: list[str] = []
    place = 0
    while place < len(text):
        match = TOKEN.match(text, place)
        assert match, text[place : place + 40]
        place = match.end()
        double, single, mark, bare = match.groups()
        if mark == ";":
            stack[-1].append((words, None))
            words = []
        elif mark == "{":
            block: list[Directive] = []
            stack[-1].append((words, block))
            stack.append(block)
            words = []
        elif mark == "}":
            assert not words
            stack.pop()
        elif (word := next((one for one in (double, single, bare) if one is not None), None)) is not None:
            words.append(re.sub(r"\\(.)", r"\1", word) if bare is None else word)
    assert len(stack) == 1
    assert not words
    return stack[0]


def inside(block: list[Directive], *names: str) -> list[list[Directive]]:
    return [content for words, content in block if words[: len(names)] == list(names) and content is not None]


def value(block: list[Directive], name: str) -> list[str]:
    (found,) = [words[1:] for words, content in block if words[0] == name and content is None]
    return found


@pytest.fixture
def gateway(founded: Founded) -> Gateway:
    return plan_gateway(founded[0], listen="127.0.0.1:8443")


@pytest.fixture
def http(gateway: Gateway) -> list[Directive]:
    return inside(parsed(configuration(gateway)), "http")[0]


@pytest.mark.parametrize("line", FORWARDED)
def test_the_calls_of_a_node_pass(line: str) -> None:
    assert is_forwarded(line)


@pytest.mark.parametrize("line", REFUSED)
def test_nothing_else_passes(line: str) -> None:
    assert not is_forwarded(line)


@given(st.one_of(st.text(), st.sampled_from(FORWARDED)), st.text(max_size=3), st.integers(0, 40), st.integers(0, 3))
def test_a_line_that_is_changed_anywhere_does_not_pass(line: str, put: str, place: int, cut: int) -> None:
    changed = line[:place] + put + line[place + cut :]
    assert is_forwarded(changed) == (changed in FORWARDED)


def test_the_calls_are_those_that_this_flower_knows_but_for_registration() -> None:
    known = {(method, route.path) for route in fleet.routes for method in route.methods}
    assert known == {("POST", path) for path in [*FLEET_CALLS, *(f"/v1/fleet/{v}register-node" for v in ("", "un"))]}


def test_no_call_of_the_control_and_runtime_apis_passes() -> None:
    routes = [route for router in (control, runtime) for route in router.routes]
    assert len(routes) > 20
    assert not any(is_forwarded(f"{method} {route.path} HTTP/1.1") for route in routes for method in route.methods)


def test_the_configuration_applies_the_same_rule_to_the_line_as_it_came(http: list[Directive]) -> None:
    (rules,) = inside(http, "map", "$request", "$is_fleet_call")
    (default, zero), (pattern, one) = [words for words, _ in rules]
    assert (default, zero, one) == ("default", "0", "1")
    assert pattern.startswith("~^")  # case counts
    for line in (*FORWARDED, *REFUSED):
        assert bool(re.search(pattern[1:], line)) == is_forwarded(line)


def test_what_the_rule_refuses_ends_before_any_place_is_chosen(http: list[Directive]) -> None:
    public, _ = inside(http, "server")
    assert inside(public, "if", "($is_fleet_call", "=", "0)") == [[(["return", "403"], None)]]
    assert inside(public, "location", "/") == [[(["return", "403"], None)]]


def test_only_the_calls_lead_to_the_superlink_and_over_a_checked_connection(http: list[Directive]) -> None:
    public, own = inside(http, "server")
    places = {words[2]: content for words, content in public if words[:2] == ["location", "="]}
    assert set(places) == set(FLEET_CALLS)
    for path, content in places.items():
        assert value(content, "proxy_pass") == ["https://127.0.0.1:9191"]
        assert value(content, "client_max_body_size") == [str(FLEET_CALLS[path])]
    assert value(public, "proxy_ssl_verify") == ["on"]
    assert Path(value(public, "proxy_ssl_trusted_certificate")[0]).name == "ca.crt"
    assert value(public, "proxy_ssl_name") == ["localhost"]
    assert value(public, "ssl_protocols") == ["TLSv1.2", "TLSv1.3"]
    assert value(own, "listen") == ["127.0.0.1:9190"]
    assert "proxy_pass" not in str(own)


def test_a_chunk_of_an_array_fits_into_a_body_and_a_body_into_memory(http: list[Directive]) -> None:
    assert FLEET_CALLS["/v1/fleet/push-object"] > CHUNK * 1.1
    assert int(value(http, "client_body_buffer_size")[0]) >= max(FLEET_CALLS.values())
    assert value(http, "proxy_max_temp_file_size") == ["0"]


def test_a_log_line_holds_no_body_and_no_header(http: list[Directive]) -> None:
    named = set(re.findall(r"\$(\w+)", "".join(value(http, "log_format"))))
    assert not {name for name in named if name.startswith(("request_body", "http_", "sent_http"))}


def test_a_path_with_spaces_quotes_and_marks_of_the_grammar_is_one_word(tmp_path: Path, bundle: Path) -> None:
    folder = tmp_path / 'a "b" {c}; \\d #e'
    now = datetime.now(UTC)
    found_federation(folder, name="s", address="127.0.0.1:8443", names=[], features=bundle, now=now)
    text = configuration(plan_gateway(folder, listen="127.0.0.1:8443"))
    public = inside(inside(parsed(text), "http")[0], "server")[0]
    assert value(public, "ssl_certificate") == [str(folder / "server.crt")]
    assert value(public, "proxy_ssl_name") == ["127.0.0.1"]


def test_a_folder_that_nginx_would_read_as_a_variable_is_refused(tmp_path: Path, bundle: Path) -> None:
    folder = tmp_path / "a$request"
    found_federation(folder, name="s", address="x.example:1", names=[], features=bundle, now=datetime.now(UTC))
    with pytest.raises(ConfigError, match="dollar"):
        plan_gateway(folder, listen="x.example:1")


def test_a_folder_that_was_not_founded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"federation\.json"):
        plan_gateway(tmp_path, listen="127.0.0.1:8443")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"listen": "fl.example.org:8443"}, "certificate names"),
        ({"listen": "127.0.0.1"}, "HOST:PORT"),
        ({"listen": "127.0.0.1:9191"}, "not all different"),
        ({"listen": "127.0.0.1:8443", "health_port": 8443}, "not all different"),
        ({"listen": "127.0.0.1:8443", "superlink": "10.0.0.1:9191"}, "would listen at 10.0.0.1"),
        ({"listen": "127.0.0.1:8443", "superlink": "localhost:9191"}, "would listen at localhost"),
    ],
)
def test_an_address_that_cannot_serve_is_refused(founded: Founded, changes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        plan_gateway(founded[0], **changes)


@pytest.mark.parametrize("listen", ["0.0.0.0:8443", "[::]:8443", "localhost:8443"])
def test_every_address_of_the_machine_and_every_name_may_be_listened_at(founded: Founded, listen: str) -> None:
    assert f"listen {listen} ssl default_server;" in configuration(plan_gateway(founded[0], listen=listen))


def test_writing_again_replaces_the_file_and_the_command_names_it(gateway: Gateway) -> None:
    path = write_gateway(gateway)
    path.write_text("changed")
    assert write_gateway(gateway) == path
    assert path.read_text() == configuration(gateway)
    assert str(path) in nginx_command(path)
    assert sorted(one.name for one in path.parent.iterdir()) == ["nginx.conf"]


def test_the_page_states_every_call_with_its_limit(repository: Path) -> None:
    page = (repository / "docs" / "gateway.md").read_text()
    units = {64 << 10: "64 KiB", 8 << 20: "8 MiB", 16 << 20: "16 MiB"}
    for path, most in FLEET_CALLS.items():
        row = next(row for row in page.splitlines() if row.startswith("|") and f"`{Path(path).name}`" in row)
        assert row.endswith(f"| {units[most]} |")


def test_a_node_call_is_in_the_table_of_tricks_only_with_a_trick() -> None:
    assert not set(FORWARDED) & set(REFUSED)
    assert any(CALL in line for line in REFUSED)
