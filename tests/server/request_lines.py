"""First lines of requests: those that a gateway forwards, and every trick by which somebody may try another call."""

from __future__ import annotations

from server.gateway import FLEET_CALLS

FORWARDED = [f"POST {path} HTTP/1.1" for path in FLEET_CALLS]
CALL = "/v1/fleet/pull-messages"
TARGETS = [
    "/v1/control/list-runs",
    "/v1/control/start-run",
    "/v1/control/stop-run",
    "/v1/control/register-node",
    "/v1/runtime/acquire-task",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/fleet/",
    "/v1/fleet",
    "/",
    "/health",
    "/docs",
    "/openapi.json",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/pull-messages/../../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/..%2fcontrol/list-runs",
    "/v1/fleet/..%5ccontrol/list-runs",
    "/v1/fleet%2fpull-messages",
    "/v1%2ffleet/pull-messages",
    "/v1/fleet/%70ull-messages",
    "/v1/fleet/pull%252Dmessages",
    "/v1/fleet/./pull-messages",
    "/v1//fleet/pull-messages",
    "//v1/fleet/pull-messages",
    "/../v1/fleet/pull-messages",
    "/V1/FLEET/PULL-MESSAGES",
    "/v1/fleet/Pull-Messages",
    "/v1/control/list-runs?/v1/fleet/pull-messages",
    "/v1/control/list-runs#/v1/fleet/pull-messages",
    f"{CALL}/",
    f"{CALL}?",
    f"{CALL}?a=b",
    f"{CALL}#a",
    f"{CALL};a=b",
    f"{CALL}%00",
    f"{CALL}%0d%0a",
    f"{CALL}%20HTTP/1.1",
    f"{CALL}/../../control/list-runs",
    "https://127.0.0.1/v1/fleet/pull-messages",
    "https://127.0.0.1/v1/control/list-runs",
    "http://superlink/v1/control/list-runs",
    "127.0.0.1:9191",
    "*",
]
REFUSED = [f"POST {target} HTTP/1.1" for target in TARGETS]
REFUSED += [
    f"{method} {CALL} HTTP/1.1" for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "post")
]
REFUSED += [f"POST {CALL} HTTP/1.0", f"POST {CALL} HTTP/2.0", f"POST {CALL}", f"POST  {CALL} HTTP/1.1"]
REFUSED += [
    f" POST {CALL} HTTP/1.1",
    f"POST {CALL}  HTTP/1.1",
    f"POST\t{CALL} HTTP/1.1",
    "CONNECT 127.0.0.1:9191 HTTP/1.1",
]
REFUSED += [f"POST {CALL} http/1.1", f"POST {CALL} HTTP/1.1 HTTP/1.1", f"POST {CALL}\x00 HTTP/1.1", "PRI * HTTP/2.0"]
