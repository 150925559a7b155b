"""A chat request's messages and parameters as bytes: what goes over the wire, and what a row's key hashes."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from pipeline.errors import RowRejected, SpecError
from pipeline.provider.endpoints._json import canonical
from pipeline.records import Message, Model

_TRANSPORT = frozenset({"stream", "stream_options"})  # how the answer travels, not what is asked
_WHOLE = b',"stream":false}'
_STREAMED = b',"stream":true,"stream_options":{"include_usage":true}}'
_OURS = frozenset({"model", "messages"})


class Encoder:
    """From written messages to body and question. All but the messages is written once, for a million rows."""

    __slots__ = ("_before", "_body_end", "_question_end")

    def __init__(self, model: Model, *, stream: bool = False) -> None:
        for name in sorted(_OURS & model.params.keys()):
            raise SpecError(f"model.{name} is no parameter; the job says it elsewhere (model.name, prompt)")
        fields = {"model": model.name, **{k: v for k, v in model.params.items() if k not in _TRANSPORT}}
        try:
            pairs = [(name, canonical({name: value})[1:-1]) for name, value in sorted(fields.items())]
        except (ValueError, TypeError) as exc:
            raise SpecError(f"model: a parameter cannot be sent: {exc}") from None
        self._before = b"{" + b"".join(pair + b"," for name, pair in pairs if name < "messages") + b'"messages":'
        after = b"".join(b"," + pair for name, pair in pairs if name > "messages")
        self._question_end, self._body_end = after + b"}", after + (_STREAMED if stream else _WHOLE)

    def body(self, messages: bytes) -> bytes:
        return self._before + messages + self._body_end

    def question(self, messages: bytes) -> bytes:
        return self._before + messages + self._question_end


def written(messages: Sequence[Message]) -> bytes:
    """Raises RowRejected for text that JSON cannot carry."""
    try:
        # Plain texts are the rule, and orjson writes them canonically as they stand.
        if _is_plain(messages):
            return orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)
        return canonical(messages)
    except (ValueError, TypeError) as exc:
        raise RowRejected(
            f"the prompt cannot be written as JSON ({exc}); mend the row's text", kind="invalid_input"
        ) from None


def _is_plain(messages: Sequence[Message]) -> bool:
    # Loops: `all` over generators took twice as long as the writing.
    for message in messages:
        if type(message) is not dict:
            return False
        for value in message.values():
            if type(value) is not str:
                return False
    return True


def has_system(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[0]["role"] in ("system", "developer")


def instructed(messages: Sequence[Message], words: str) -> Sequence[Message]:
    """The words at the end of the system message."""
    first = {**messages[0], "content": f"{messages[0]['content']}\n\n{words}"}
    return [first, *messages[1:]]


def system_message(words: str) -> bytes:
    """Written, to go before others."""
    return written([{"role": "system", "content": words}])[1:-1]


def led(by: bytes, messages: bytes) -> bytes:
    """Written messages, one more before them; there is one at least."""
    return b"[" + by + b"," + messages[1:]
