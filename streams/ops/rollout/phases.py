"""What a phase of the rollout allows, and what it asks before the next one. The defaults are ``phases.toml``."""

import tomllib
from decimal import Decimal
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from schemas.config import Count, Duration, Positive, ProfileName, Section
from schemas.types import Id
from streams.ops.exits import CommandError, ExitStatus

DEFAULT_PHASES = files(__package__) / "phases.toml"
# What the topics show; a desk's own criterion may not take these names.
READ_CRITERIA = ("time", "week", "dead-letters", "lag")
DRILL_PREFIX = "drill-"


class Phase(Section):
    """One phase. Durations in milliseconds; ``capital_max`` of each account, in its own currency; None: no limit."""

    phase: Count
    title: Id
    venues: Literal["testnet", "live"]
    profiles: tuple[ProfileName, ...] = Field(min_length=1)
    accounts_max: Count | None = None
    capital_max: Positive | None = None
    lasts: Duration | None = None
    not_before: Duration | None = None
    drills: tuple[Id, ...] = ()
    sign: dict[Id, Id] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """The phase as decisions name it."""
        return str(self.phase)

    @model_validator(mode="after")
    def _sign_what_is_not_read(self) -> "Phase":
        for name in self.sign:
            if name in READ_CRITERIA or name.startswith(DRILL_PREFIX):
                raise ValueError(f"sign.{name}: the topics show that; choose another name")
        return self


class Phases(Section):
    """The phases in their order, and how a testnet is told from a live venue."""

    testnet_venues: tuple[str, ...] = ()
    phases: tuple[Phase, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rising(self) -> "Phases":
        numbers = [phase.phase for phase in self.phases]
        if numbers != sorted(set(numbers)):
            raise ValueError(f"phases {numbers} do not rise; number them in their order")
        return self

    def labelled(self, label: str) -> Phase | None:
        """The phase that a decision or a policy calls ``label``."""
        return next((phase for phase in self.phases if phase.label == label), None)

    def after(self, phase: Phase) -> Phase | None:
        """The next phase; None after the last."""
        return next((one for one in self.phases if one.phase > phase.phase), None)

    def is_testnet(self, venue: str) -> bool:
        return any(fnmatchcase(venue.lower(), pattern.lower()) for pattern in self.testnet_venues)


def load_phases(path: Path | None) -> Phases:
    """Phases from a file, or the defaults. Raises CommandError that names file, key and remedy."""
    try:
        table: dict[str, Any] = tomllib.loads((path or DEFAULT_PHASES).read_text(encoding="utf-8"), parse_float=Decimal)
        return Phases.model_validate(table)
    except OSError as error:
        raise CommandError(f"--phases {path}: {error.strerror}", ExitStatus.USAGE) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"--phases {path}: is not TOML ({error})", ExitStatus.USAGE) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise CommandError(f"--phases {path}: {place}: {message}", ExitStatus.USAGE) from None
