"""What founding makes is what Flower's own programs take: TLS, node login, the executors' secret. Real processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from client.node_key import create_node_key
from server.founding import found_federation
from server.superlink import superlink_command
from tests.federation.programs import NOW, flwr, found_and_enrol, free_port, program, waited


@pytest.mark.slow
def test_an_enrolled_node_gets_in_and_a_stranger_and_a_wrong_ca_do_not(tmp_path: Path, small_partner: Path) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    made = found_and_enrol(tmp_path, small_partner, address)
    made.connections(prod=address)
    create_node_key(tmp_path / "stranger", "stranger")
    shutil.copytree(made.bundle, tmp_path / "copy", ignore=shutil.ignore_patterns("manifest.sig"))
    found_federation(tmp_path / "evil", name="s", address=address, names=[], features=tmp_path / "copy", now=NOW)

    def online() -> bool:
        listed = json.loads(flwr(tmp_path, "supernode", "list", "--format", "json", "prod"))
        return [one["status"] for one in listed["nodes"]] == ["online"]

    with program(tmp_path, *superlink_command(made.coordinator, port=port, health_port=free_port())) as (_, log):
        assert waited(lambda: "Uvicorn running" in log.read_text()), log.read_text()
        assert "registered" in flwr(tmp_path, "supernode", "register", str(made.node_key), "prod", "--name", "north")
        for key, ca in (
            (tmp_path / "stranger" / "node.key", None),
            (None, tmp_path / "evil" / "ca.crt"),
        ):
            with program(tmp_path, *made.node(address, key=key, ca=ca)) as (process, said):
                assert process.wait(60) != 0, said.read_text()
            assert not online()
        with program(tmp_path, *made.node(address)):
            assert waited(online)
