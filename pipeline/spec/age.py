"""How old an answer may be: a whole number and a unit, such as 30d."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

NO_AGE: Final = "no_age"

_PATTERN: Final = r"[1-9][0-9]{0,5}[mhdw]"
_UNITS_S: Final = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def age_s(text: str) -> int:
    """Seconds of an age that was checked before."""
    return int(text[:-1]) * _UNITS_S[text[-1]]


def _checked(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(_PATTERN, value):
        raise PydanticCustomError(NO_AGE, "is no age")
    return value


Age = Annotated[str, BeforeValidator(_checked), Field(pattern=f"^{_PATTERN}$")]
