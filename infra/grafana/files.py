"""The dashboards as files: what they should hold, and what is wrong with those that are there."""

import json
from pathlib import Path

from infra.grafana.dashboards import DASHBOARDS
from infra.grafana.model import document

DIRECTORY = Path(__file__).parent / "json"


def rendered() -> dict[str, str]:
    """The JSON of every dashboard by file name."""
    return {
        f"{one.uid.removeprefix('tidegate-')}.json": json.dumps(document(one), indent=1, ensure_ascii=False) + "\n"
        for one in DASHBOARDS
    }


def differing(directory: Path = DIRECTORY) -> list[str]:
    """Files that are missing, unreadable, or not what this release would write."""
    wrong = []
    for name, text in rendered().items():
        try:
            if (directory / name).read_text(encoding="utf-8") != text:
                wrong.append(name)
        except (OSError, UnicodeDecodeError):
            wrong.append(name)
    return wrong
