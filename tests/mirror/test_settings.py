"""Where the mirror writes: what its variables may hold, and that a password is never told."""

from pathlib import Path

import pytest

from streams.mirror.settings import MirrorSettings
from streams.runtime.settings import Settings, SettingsError

SETTINGS = Settings(broker="kafka://k:9092")
URL = "rediss://ops:open-sesame@cache.desk:6380/1"


def read(**environ: str) -> MirrorSettings:
    return MirrorSettings.from_environment(SETTINGS, {f"TIDEGATE_REDIS_{name}": text for name, text in environ.items()})


def test_the_url_is_told_without_its_password() -> None:
    settings = read(URL=URL)
    assert settings.url == URL
    assert settings.address == "rediss://cache.desk:6380/1"
    assert "sesame" not in repr(settings)


def test_the_url_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(URL + "\n")
    assert read(URL_FILE=str(file)).url == URL


def test_two_gates_on_one_server_have_prefixes_of_their_own() -> None:
    assert read(URL=URL).prefix == "tidegate:"
    other = Settings(broker="kafka://k:9092", topic_prefix="desk2.", app_id="gate")
    assert MirrorSettings.from_environment(other, {"TIDEGATE_REDIS_URL": URL}).prefix == "desk2.gate:"
    assert read(URL=URL, PREFIX="{tide}:").prefix == "{tide}:"


def test_the_length_of_the_stream_of_locks_can_be_set() -> None:
    assert read(URL=URL, LOCKS_MAX="50").locks_max == 50


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, "TIDEGATE_REDIS_URL"),
        ({"URL": "http://open-sesame@x"}, "TIDEGATE_REDIS_URL"),
        ({"URL": "redis://:open-sesame@"}, "TIDEGATE_REDIS_URL"),
        ({"URL": "redis://:open-sesame@x:port"}, "TIDEGATE_REDIS_URL"),
        ({"URL": URL, "LOCKS_MAX": "0"}, "TIDEGATE_REDIS_LOCKS_MAX"),
        ({"URL": URL, "LOCKS_MAX": "many"}, "TIDEGATE_REDIS_LOCKS_MAX"),
    ],
)
def test_what_cannot_be_used_is_named_without_its_password(environ: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as refused:
        read(**environ)
    assert "sesame" not in str(refused.value)
