"""The page for administrators says what the roles are, and leaves none out."""

from infra.security import reference
from schemas.roles import ROLES


def test_the_page_is_what_the_roles_say() -> None:
    assert reference.main(["--check"]) == 0, "run python -m infra.security.reference"


def test_every_role_is_in_the_table_of_stolen_keys() -> None:
    text = reference.PAGE.read_text(encoding="utf-8")
    chapter = text.split("## What a stolen key is good for")[1].split("\n## ")[0]
    first_cells = [line.split("|")[1] for line in chapter.splitlines() if line.startswith("| ")]
    assert [role for role in ROLES if not any(role in cell for cell in first_cells)] == []
