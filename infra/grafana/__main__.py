"""``python -m infra.grafana``: write the dashboards' JSON anew. A test fails while what is committed differs."""

import sys

from infra.grafana.files import DIRECTORY, rendered


def main() -> None:
    """Write every dashboard."""
    for name, text in rendered().items():
        (DIRECTORY / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{DIRECTORY / name}\n")


if __name__ == "__main__":
    main()
