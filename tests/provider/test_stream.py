from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.provider.stream import Stream, written
from pipeline.records import STREAM_CUT

WHY = "it was cut"
DONE = b"data: [DONE]\n\n"


def read(*pieces: bytes) -> dict[str, Any] | None:
    stream = Stream()
    for piece in pieces:
        stream.feed(piece)
    stream.end()
    assert not stream.is_plain
    whole = stream.completion(WHY)
    return None if whole is None else dict(orjson.loads(written(whole)))


def whole(*pieces: bytes) -> dict[str, Any]:
    found = read(*pieces)
    assert found is not None
    return found


def event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def said(*words: str) -> bytes:
    return b"".join(event(chunk(content=word)) for word in words)


def message(found: dict[str, Any]) -> dict[str, Any]:
    return dict(found["choices"][0]["message"])


STOP = event(chunk("stop"))
USAGE = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


def test_a_stream_adds_up_to_the_completion_that_would_have_come_whole() -> None:
    opening = {**chunk(role="assistant", content=""), "object": "chat.completion.chunk", "created": 7}
    closing = event({"id": "c1", "choices": [], "usage": USAGE})
    assert whole(event(opening), said("posi", "tive"), STOP, closing, DONE) == {
        "id": "c1",
        "model": "m",
        "created": 7,
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "positive"}, "finish_reason": "stop"},
        ],
        "usage": USAGE,
    }


@pytest.mark.parametrize(
    "body",
    [
        said("posi", "tive").replace(b"\n", b"\r\n") + STOP + DONE,
        said("posi", "tive").replace(b"\n", b"\r") + STOP + DONE,
        (said("posi", "tive") + STOP + DONE).replace(b"data: ", b"data:"),
        (said("posi", "tive") + STOP + DONE).replace(b"\n\n", b"\n"),
        b": PING\n\n" + said("posi") + b": PING\n\n:\n\n\n\n" + said("tive") + STOP + DONE,
        b"\xef\xbb\xbf\r\n" + said("posi", "tive") + STOP + DONE,
        b"event: message\nid: 4\nretry: 100\n" + said("posi", "tive") + STOP + DONE,
        said("posi").replace(b',"model"', b',\ndata: "model"') + said("tive") + STOP + DONE,
        said("posi", "tive") + STOP,
        said("posi", "tive") + STOP.rstrip(),
        said("posi", "tive") + STOP + b'data: {"choices":[],"usa',
        said("posi", "tive") + STOP + b"data: [DONE]",
        b"data: keep-alive\n\ndata: null\n\n" + said("posi", "tive") + STOP + DONE,
        said("posi") + event(chunk("stop", content="tive")) + DONE + said("never read"),
        said("posi", "tive") + event({"choices": [{"delta": None, "finish_reason": "stop"}]}) + DONE,
        said("posi", "tive") + STOP + event({"error": {"message": "the bill could not be made"}}),
        event({"choices": [{"text": "posi"}]}) + event({"choices": [{"text": "tive", "finish_reason": "stop"}]}) + DONE,
    ],
)
def test_whatever_the_accent_the_answer_is_whole(body: bytes) -> None:
    found = whole(body)
    assert (message(found)["content"], found["choices"][0]["finish_reason"]) == ("positive", "stop")
    assert STREAM_CUT not in found
    assert "error" not in found


def test_with_the_last_word_said_no_reason_is_needed() -> None:
    found = whole(said("positive"), DONE)
    assert (message(found)["content"], found["choices"][0]["finish_reason"], STREAM_CUT in found) == (
        "positive",
        None,
        False,
    )


@pytest.mark.parametrize("end", [b"", b'data: {"choices":[{"del', b": PING\n\n", b"data: "])
def test_an_end_without_either_is_a_cut_that_keeps_the_words(end: bytes) -> None:
    found = whole(said("posi", "ti"), end)
    assert (message(found)["content"], found["choices"][0]["finish_reason"], found[STREAM_CUT]) == ("positi", None, WHY)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b": PING\n\n",
        event(chunk(role="assistant", content="")),
        event(chunk(reasoning_content="let me see")),
        event(chunk(content=" \n")),
        event(chunk(tool_calls=[{"index": 0, "id": "a"}])),
        b'data: {"choices":[{"delta":{"content":"posi',
    ],
)
def test_a_cut_before_a_word_of_the_answer_leaves_nothing(body: bytes) -> None:
    assert read(body) is None


def test_nothing_behind_a_hole_is_taken_for_the_answer() -> None:
    body = said("posi") + b'data: {"choices":[{"delta":{"con\n\n' + said("never read") + STOP + DONE
    stream = Stream()
    stream.feed(body)
    assert stream.unreadable
    found = whole(body)
    assert (message(found)["content"], found[STREAM_CUT]) == ("posi", WHY)


@pytest.mark.parametrize(
    "usages",
    [
        [event({"choices": [], "usage": USAGE})],
        [event({**chunk(), "usage": USAGE})],
        [event({"choices": [{"index": 0, "delta": {}, "usage": USAGE}]})],
        [event({**chunk(content=""), "usage": {"completion_tokens": 1}}), event({"choices": [], "usage": USAGE})],
        [event({"usage": {"prompt_tokens": 4}}), event({"usage": {"completion_tokens": 2, "total_tokens": 6}})],
        [event({"usage": USAGE}), event({"usage": None}), event({"usage": dict.fromkeys(USAGE, 0)})],
    ],
)
def test_usage_is_found_wherever_it_comes(usages: list[bytes]) -> None:
    assert whole(said("a"), *usages, STOP, DONE)["usage"] == USAGE


def test_a_stream_without_usage_reports_none() -> None:
    assert "usage" not in whole(said("a"), event({**chunk(), "usage": None}), STOP, DONE)


def test_thoughts_refusals_and_calls_come_together_each_in_its_place() -> None:
    calls: list[dict[str, Any]] = [
        {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x"'}},
        {"index": 0, "id": "", "function": {"arguments": ":1}"}},
    ]
    found = message(
        whole(
            event(chunk(role="assistant", content="")),
            event(chunk(reasoning_content="let ", reasoning="see")),
            event(chunk(reasoning_content="me", refusal="I ")),
            event(chunk(refusal="can't")),
            *(event(chunk(tool_calls=[call])) for call in calls),
            event(chunk(function_call={"name": "h", "arguments": "{"})),
            event(chunk("tool_calls", function_call={"arguments": "}"})),
            DONE,
        )
    )
    assert found == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "let me",
        "reasoning": "see",
        "refusal": "I can't",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
        ],
        "function_call": {"name": "h", "arguments": "{}"},
    }


def test_parts_of_text_are_text_and_other_parts_keep_their_place() -> None:
    text = [{"type": "text", "text": "posi"}], [{"type": "text", "text": "tive"}]
    assert message(whole(*(event(chunk(content=part)) for part in text), STOP))["content"] == "positive"
    picture = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    mixed = whole(said("see"), event(chunk(content=[picture, "!"])), STOP)
    assert message(mixed)["content"] == [{"type": "text", "text": "see"}, picture, {"type": "text", "text": "!"}]


def in_message(text: str, finish: str | None = None, **more: Any) -> bytes:
    return event({**more, "choices": [{"index": 0, "message": {"content": text}, "finish_reason": finish}]})


@pytest.mark.parametrize(
    "events",
    [
        [in_message("ha"), in_message("ha"), in_message("!", "stop")],
        [in_message("haha!", "stop")],
        [said("ha", "ha", "!"), in_message("haha!", "stop", object="chat.completion")],
        [said("ha", "ha", "!"), in_message("haha!", "stop")],
        [in_message(text, object="chat.completion") for text in ("ha", "haha", "haha!")],
    ],
)
def test_a_message_in_place_of_a_delta_is_a_piece_or_the_whole(events: list[bytes]) -> None:
    assert message(whole(*events, DONE))["content"] == "haha!"


def test_a_second_choice_does_not_get_into_the_first() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}
    found = whole(said("posi"), event(other), said("tive"), STOP, event(other), DONE)
    assert (message(found)["content"], found["choices"][0]["finish_reason"]) == ("positive", "stop")


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (event({"error": {"message": "boom"}}), {"message": "boom"}),
        (event({"error": "boom"}), "boom"),
        (event([{"error": {"message": "boom"}}]), {"message": "boom"}),
        (b'event: error\ndata: {"message":"boom"}\n\n', {"message": "boom"}),
        (b"event: error\ndata: boom\n\n", "boom"),
        (event({"code": 500, "message": "boom"}), {"code": 500, "message": "boom"}),
        (
            event({"choices": [{"delta": {}, "error": {"message": "boom"}, "finish_reason": "error"}]}),
            {"message": "boom"},
        ),
    ],
)
def test_an_error_in_the_stream_ends_it_and_the_words_before_it_stay_beside_it(sent: bytes, told: Any) -> None:
    stream = Stream()
    stream.feed(said("posi") + sent)
    assert stream.done
    found = whole(said("posi"), sent, said("never read"))
    assert found["error"] == told
    assert message(found)["content"] == "posi"


def test_the_halves_of_one_character_in_two_events_make_one_character() -> None:
    first, second = (
        b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":',
    )
    assert message(whole(first, second + b'"\\ude00b"}}]}\n\n', STOP))["content"] == "a\U0001f600b"
    assert message(whole(first, STOP))["content"] == "a\ufffd"


@pytest.mark.parametrize("depth", [150, 230, 900, 1500])
def test_an_event_nested_too_deep_to_be_written_again_raises_nothing(depth: int) -> None:
    deep = b'data: {"x":' + b"[" * depth + b"]" * depth + b',"choices":[{"delta":{"content":"b"}}]}\n\n'
    found = whole(said("a"), deep, DONE)
    assert message(found)["content"] in ("a", "ab")
    assert (STREAM_CUT in found) is (message(found)["content"] == "a")


def test_many_brackets_in_a_text_are_no_depth() -> None:
    assert message(whole(said("[{" * 500), STOP))["content"] == "[{" * 500


@pytest.mark.parametrize(
    "body", [b'{"choices":[]}', b' \r\n{"a":\r\n1}', b"<html>\n<p>", b"upstream\nerror", b"[1]", b"database\n"]
)
def test_what_is_no_stream_is_kept_as_it_came(body: bytes) -> None:
    for pieces in ([body], [body[at : at + 1] for at in range(len(body))]):
        stream = Stream()
        for piece in pieces:
            stream.feed(piece)
        stream.end()
        assert (stream.is_plain, stream.body) == (True, body.lstrip())


LINES = st.sampled_from(
    [
        *(said("héllo 😀"), said("a"), STOP, DONE, b": PING\r\n", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"data: {\r\n"),
        *(b"data:{}\n", b"event: error\n", b"data: boom\n\n", b'data: "choices":[\ndata: ]}\n', b"\xef\xbb\xbf"),
        *(event({"choices": [], "usage": USAGE}), event({"error": "x"}), b'{"choices":[]}', b"data", b"\xf0\x9f"),
    ]
)


@given(st.lists(LINES, max_size=8).map(b"".join), st.lists(st.integers(0, 400), max_size=12))
def test_wherever_the_network_cuts_the_bytes_the_object_is_the_same(body: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    results = []
    for pieces in (
        [body],
        [body[a:b] for a, b in itertools.pairwise(places)],
        [bytes((byte,)) for byte in body],
    ):
        stream = Stream()
        for piece in pieces:
            stream.feed(piece)
        stream.end()
        results.append((stream.is_plain, stream.is_plain and stream.body, stream.completion(WHY), stream.unreadable))
    assert results[0] == results[1] == results[2]


@given(st.binary(max_size=300) | st.lists(st.binary(max_size=30)).map(lambda parts: b"\ndata: {".join(parts)))
def test_no_bytes_make_it_raise(body: bytes) -> None:
    stream = Stream()
    stream.feed(body)
    stream.end()
    completion = stream.completion(WHY)
    assert completion is None or orjson.loads(written(completion))
