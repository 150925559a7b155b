"""How a job asks for typed answers while it runs: as strongly as the endpoint allows.

``auto`` begins with the strongest mode (the endpoint enforces the schema) and steps down, once per mode and run, when
the endpoint refuses it or plainly ignores it. A mode that has worked once stays: after that a refusal is the row's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.answers.spec import AnswerSpec, Mode
from pipeline.answers.words import re_ask

MODES: tuple[Mode, ...] = ("schema", "json", "text")
IGNORED_AFTER = 3
"""So many first answers that are no JSON at all say that the endpoint ignores what it was asked for."""


class AnswerForm:
    """One per run. ``told`` is called with a sentence when the mode changes."""

    def __init__(self, spec: AnswerSpec, *, mode: str, repair: int, told: Callable[[str], None]) -> None:
        self.spec = spec
        self.repair = repair
        self.told = told
        self._auto = mode == "auto"
        self._mode: Mode = MODES[0] if self._auto else next(each for each in MODES if each == mode)
        self._works = False
        self._misses = 0
        self._instructions = {mode: spec.instructions(mode) for mode in MODES}  # the same for every row

    @property
    def schema(self) -> Mapping[str, Any]:
        return self.spec.schema

    @property
    def mode(self) -> Mode:
        return self._mode

    def response_format(self) -> Mapping[str, Any] | None:
        return self.spec.response_format(self._mode)

    def instructions(self) -> str | None:
        return self._instructions[self._mode]

    def weaken(self, mode: str) -> bool:
        """The endpoint refused ``mode``. True: ask again, in the mode that now holds."""
        if mode != self._mode:
            return True  # another row has stepped down meanwhile
        if not self._auto or self._works or mode == MODES[-1]:
            return False
        self._step_down("refuses")
        return True

    def read(self, text: str) -> tuple[Mapping[str, Any] | None, str, Sequence[str]]:
        reading = self.spec.read(text)
        if reading.values is not None:
            self._works = True
        elif self._auto and not self._works and self._mode != MODES[-1]:
            self._misses += 1
            if self._misses >= IGNORED_AFTER:
                self._step_down("ignores")
        return reading.values, reading.step, reading.problems

    def re_ask(self, text: str, problems: Sequence[str]) -> str:
        return re_ask(text, problems)

    def _step_down(self, how: str) -> None:
        before = self._mode
        self._mode = MODES[MODES.index(before) + 1]
        self._misses = 0
        self.told(f"the endpoint {how} answer.mode {before}; asking in mode {self._mode} from here on")
