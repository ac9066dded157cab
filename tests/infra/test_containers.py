"""What only a Docker engine can run is checked as far as it can be without one."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import jars
from streams.mirror.settings import MirrorSettings
from streams.runtime.settings import Settings
from tests.integration.container import NoDockerEngine, environment, kafka_container
from tests.integration.support import require_local_kafka
from tests.mirror.servers import IMAGE as REDIS_IMAGE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services: dict[str, Any] = compose["services"]
    return services


def test_compose_runs_the_kafka_that_the_tests_run(services: dict[str, Any]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{jars.kafka_version()}"
    assert services["redis"]["image"] == REDIS_IMAGE


def test_compose_runs_a_mirror_that_asks_its_own_redis(services: dict[str, Any]) -> None:
    mirror, worker = services["mirror"], services["worker"]
    assert mirror["command"] == ["mirror"]
    assert mirror["environment"].items() >= worker["environment"].items()
    settings = MirrorSettings.from_environment(Settings(broker="kafka://k:9092"), mirror["environment"])
    assert settings.address == "redis://redis:6379/0"
    assert " ".join(services["redis"]["command"]).startswith("redis-server --maxmemory-policy noeviction")


def test_compose_runs_every_process_that_prometheus_looks_for(services: dict[str, Any]) -> None:
    scraped = yaml.safe_load((ROOT / "infra" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    (names,) = (one["names"] for job in scraped for one in job["dns_sd_configs"])
    processes = {name: services[name].get("command", ["worker"]) for name in names}
    assert processes == {"worker": ["worker"], "steward": ["steward"], "mirror": ["mirror"], "notifier": ["notify"]}
    (port,) = (one["port"] for job in scraped for one in job["dns_sd_configs"])
    assert all(services[name]["environment"]["TIDEGATE_HTTP"] == f"0.0.0.0:{port}" for name in names)


def test_compose_waits_for_health(services: dict[str, Any]) -> None:
    assert {"test", "interval", "retries"} <= services["kafka"]["healthcheck"].keys()
    assert {"test", "interval", "retries"} <= services["redis"]["healthcheck"].keys()
    assert services["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert services["worker"]["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}


def test_the_worker_goes_to_an_address_that_kafka_advertises(services: dict[str, Any]) -> None:
    advertised = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    address = services["worker"]["environment"]["TIDEGATE_BROKER"].removeprefix("kafka://")
    assert f"INTERNAL://{address}" in advertised.split(",")


def test_the_image_copies_files_that_exist_and_runs_a_command_that_exists(services: dict[str, Any]) -> None:
    build = services["worker"]["build"]
    dockerfile = (ROOT / build["context"] / build["dockerfile"]).read_text()
    copied = [word for line in re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile, re.MULTILINE) for word in line.split()]
    assert "pyproject.toml" in copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entry = re.search(r'^ENTRYPOINT \["(\w+)"\]$', dockerfile, re.MULTILINE)
    assert entry is not None
    assert entry[1] in project["scripts"]


@pytest.mark.integration
@pytest.mark.parametrize("where", ["compose", "testcontainers"])
def test_kafka_accepts_the_settings_of_its_container(where: str, services: dict[str, Any], tmp_path: Path) -> None:
    """As the image does it: KAFKA_NODE_ID becomes node.id, and the result is checked by formatting the storage."""
    require_local_kafka()
    settings = services["kafka"]["environment"] if where == "compose" else environment("127.0.0.1:9092")
    properties = {name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in settings.items()}
    properties["log.dirs"] = str(tmp_path / "data")
    file = tmp_path / "server.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    tool = [jars.java(), "-cp", jars.class_path(), "kafka.tools.StorageTool"]
    result = subprocess.run(
        [*tool, "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", str(file)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "data" / "meta.properties").is_file()


def test_without_a_docker_engine_there_is_no_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-such.sock")
    with pytest.raises(NoDockerEngine, match="no Docker engine"), kafka_container():
        pass
