"""docker-compose.yml is well formed, hides nothing behind a default password, and runs real commands."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml

from orochi import cli, settings

_ROOT = pathlib.Path(__file__).parents[2]
_SCHEMA = json.loads(pathlib.Path(__file__).with_name("compose.schema.json").read_text())
_INTERPOLATION = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[?-])([^}]*))?\}")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((_ROOT / "docker-compose.yml").read_text()))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    return dict(compose["services"])


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _strings(item)


def _ours(services: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in services.items() if service["image"].startswith("orochi:")}


def test_it_follows_the_schema(compose: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(_SCHEMA)
    jsonschema.Draft202012Validator(_SCHEMA).validate(compose)


def test_the_schema_refuses_what_compose_would(compose: dict[str, Any]) -> None:
    broken = json.loads(json.dumps(compose))
    broken["services"]["gateway"]["comand"] = ["gateway"]
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        jsonschema.validate(broken, _SCHEMA)


def test_every_server_of_the_design_is_there(services: dict[str, Any]) -> None:
    images = [service["image"] for service in services.values()]
    assert sum("pgvector" in image for image in images) == 3
    assert {"redis", "s3", "migrate", "gateway", "worker1", "worker2", "beat", "flower"} < set(services)


def test_names_that_are_referred_to_exist(compose: dict[str, Any], services: dict[str, Any]) -> None:
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(compose["volumes"])
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert used == set(compose["volumes"])


def test_every_long_running_service_has_a_health_check_and_restarts(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name == "migrate":
            assert service["restart"] == "no"
            continue
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}, name
        assert service["restart"] == "unless-stopped", name


def test_a_dependency_that_must_be_healthy_can_say_so(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, dependency in service.get("depends_on", {}).items():
            if dependency["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
            if dependency["condition"] == "service_completed_successfully":
                assert services[name]["restart"] == "no"


def test_no_password_has_a_default(compose: dict[str, Any]) -> None:
    for text in _strings(compose):
        for name, how, _default in _INTERPOLATION.findall(text):
            if re.search(r"PASSWORD|SECRET|TOKEN", name):
                assert how == ":?", f"{name} must be required in {text!r}"
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|AUTH", name):
                assert "${" in str(value), f"{name} is written in the file"


def test_every_variable_is_in_the_example(compose: dict[str, Any]) -> None:
    example = (_ROOT / ".env.example").read_text()
    known = set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", example, re.MULTILINE))
    used = {name for text in _strings(compose) for name, _how, _default in _INTERPOLATION.findall(text)}
    assert used <= known
    required = {
        name for text in _strings(compose) for name, how, _ in _INTERPOLATION.findall(text) if how == ":?"
    }
    assert {name for name in known if re.search(rf"^{name}=$", example, re.MULTILINE)} == required


def test_every_setting_is_in_the_example() -> None:
    example = (_ROOT / ".env.example").read_text()
    known = set(re.findall(r"^#?(OROCHI_[A-Z0-9_]*)=", example, re.MULTILINE))
    assert known == {f"OROCHI_{name.upper()}" for name in settings.Settings.model_fields}


def test_only_settings_are_set(services: dict[str, Any]) -> None:
    for service in services.values():
        for name in service.get("environment", {}):
            if name.startswith("OROCHI_"):
                assert name.removeprefix("OROCHI_").lower() in settings.Settings.model_fields


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    published = {name: port for name, service in services.items() for port in service.get("ports", [])}
    assert set(published) == {"gateway", "flower"}
    assert all(port.startswith("127.0.0.1:") for port in published.values())


def test_postgres_allows_two_phase_commit(services: dict[str, Any]) -> None:
    for name in ("coordinator", "node1", "node2"):
        assert "max_prepared_transactions=200" in services[name]["command"]


def test_each_command_is_one_of_ours(services: dict[str, Any]) -> None:
    for name, service in _ours(services).items():
        _parse(service["command"])
        check = service.get("healthcheck", {}).get("test", [])
        if check:
            assert check[:2] == ["CMD", "orochi"], name
            _parse(check[2:])


def test_workers_serve_the_nodes_that_are_registered(services: dict[str, Any]) -> None:
    registered = [word for word in services["migrate"]["command"] if ":5432" in word]
    workers = [service["command"] for name, service in services.items() if name.startswith("worker")]
    assert [command[command.index("--node") + 1] for command in workers] == [
        str(number) for number in range(1, len(registered) + 1)
    ]


def _parse(arguments: list[str]) -> None:
    """Let click parse it as the console script would, up to calling the command."""
    root: Any = typer.main.get_command(cli.app)
    command = root.commands[arguments[0]]
    command.make_context(arguments[0], arguments[1:])
