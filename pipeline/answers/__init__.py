"""Replies become typed labels: what a job's ``answer`` block asks for, and what of it a model's text holds.

Pure: no clock, no wire, no table. ``short`` makes a JSON Schema of the short forms, ``schema`` holds it to the rules,
``columns`` says how each field is kept, ``swift`` checks the common answer in microseconds, ``loose`` reads JSON that
is almost right, ``found`` finds it in prose, ``mend`` repairs values, ``spec`` climbs the ladder.

One rule stands over all of them: a repair may change how a value is written, never which value it is. Where two
readings are possible the answer is invalid, and it costs a question, not a wrong label.
"""

from __future__ import annotations

from pipeline.answers.columns import ColumnType, Scalar
from pipeline.answers.form import AnswerForm
from pipeline.answers.schema import AnswerSpecError
from pipeline.answers.spec import AnswerSpec, Field, Mode, Reading
from pipeline.answers.words import re_ask

__all__ = ["AnswerForm", "AnswerSpec", "AnswerSpecError", "ColumnType", "Field", "Mode", "Reading", "Scalar", "re_ask"]
