"""What the simulated model says: the same to the same model, messages and seed, and plausible where that is cheap.

A picture or a film where the model's name is that of one that makes them; a JSON object where a schema asks for one;
else one of the labels that the prompt offers; else a sentence.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import orjson

from pipeline.simulator.chance import Draw
from pipeline.simulator.completion import Answer
from pipeline.simulator.families import pictured
from pipeline.simulator.fitting import Fitter
from pipeline.simulator.labels import offered, pick
from pipeline.simulator.question import Question, tokens_of

_CANNED = "ok"
_SENTENCES = (
    "This is a made-up answer of the simulator.",
    "The simulator has no opinion on this, but it answers.",
    "A real model would say more here; this is the simulator.",
    "The simulator read your prompt and made this sentence up.",
)
_FILLER = "These words were made up by the simulator to fill an answer of the length that was asked for. "
_THINKERS = re.compile(r"(?:^|[-_./:])(?:pro|o[134]|r1|reason\w*|think\w*)(?:$|[-_./:])")
_THOUGHTS = (32, 400)  # tokens
_BRACE = re.compile(r"\{")


class Answerer:
    def __init__(self, seed: int, *, answer_tokens: tuple[int, int] | None = None, canned: bool = False) -> None:
        self._seed = str(seed).encode()
        self._length = answer_tokens
        self._canned = canned

    def answer(self, question: Question, media_root: str = "http://127.0.0.1/media") -> Answer:
        """``media_root``: where links to pictures and films lead."""
        hashed = blake2b(self._seed, digest_size=16)
        hashed.update(question.model.encode())
        hashed.update(orjson.dumps(question.messages))
        draw = Draw(hashed.digest())
        if self._length is None and not self._canned and question.response_format is None:
            words = _SENTENCES[hashed.digest()[0] % len(_SENTENCES)]
            if (answer := pictured(question, words, hashed.hexdigest()[:16], media_root)) is not None:
                return answer
        thoughts = _THOUGHTS[0] + draw.below(_THOUGHTS[1]) if _thinks(question.model) else 0
        return _cut(question, self._text(question, draw), thoughts)

    def _text(self, question: Question, draw: Draw) -> str:
        if self._canned:
            return _CANNED
        if self._length is not None:
            tokens = self._length[0] + draw.below(self._length[1] - self._length[0] + 1)
            return (_FILLER * (4 * tokens // len(_FILLER) + 1))[: 4 * tokens]
        texts = question.texts
        asked = next((text for role, text in reversed(texts) if role == "user"), "")
        if question.response_format is not None:
            schema = _schema(question.response_format) or next(filter(None, (_written(t) for _, t in texts)), None)
            value = Fitter(schema, asked, draw).value() if schema else {"answer": _plain(texts, asked, draw)}
            return orjson.dumps(value).decode()
        return _plain(texts, asked, draw)


def _plain(texts: list[tuple[str, str]], asked: str, draw: Draw) -> str:
    labels = offered(texts)
    return pick(labels, asked, draw) if labels else _SENTENCES[draw.below(len(_SENTENCES))]


def _cut(question: Question, text: str, thoughts: int) -> Answer:
    """To ``max_tokens``. Thoughts come first, and may leave no room for words."""
    said, reason = tokens_of(text), "stop"
    most = question.max_tokens
    if most is not None and thoughts + said > most:
        thoughts = min(thoughts, most)
        text, reason = text.encode()[: 4 * (most - thoughts)].decode(errors="ignore"), "length"
        said = most - thoughts
    return Answer(text, reason, question.prompt_tokens, thoughts + said, thoughts)


@lru_cache(maxsize=256)
def _thinks(model: str) -> bool:
    return _THINKERS.search(model.lower()) is not None


def _schema(wanted: Any) -> dict[str, Any] | None:
    found = wanted.get("json_schema", {}).get("schema") if wanted["type"] == "json_schema" else wanted.get("schema")
    return found if isinstance(found, dict) else None


@lru_cache(maxsize=256)
def _written(text: str) -> dict[str, Any] | None:
    """A JSON Schema that stands in the prompt itself, as some endpoints want it."""
    if '"properties"' not in text:
        return None
    end = text.rfind("}") + 1
    for match in _BRACE.finditer(text, 0, text.index('"properties"') + 1):
        try:
            found = orjson.loads(text[match.start() : end])
        except orjson.JSONDecodeError:
            continue
        if isinstance(found, dict) and isinstance(found.get("properties"), dict):
            return found
    return None
