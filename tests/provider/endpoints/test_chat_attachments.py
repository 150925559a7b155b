"""Every form of content part that the gateway documents, and what of it names a row."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import orjson
import pytest

from pipeline.errors import RowRejected
from pipeline.provider.endpoints._json import canonical
from pipeline.provider.endpoints.chat import dialogue
from pipeline.records import ApiCall, Attachment, Model, Prompt
from tests.attachments.made import MP3, pdf, png, wav

URL = "https://a.example/a.pdf"


def linked(form: str, url: str = URL, name: str = "a.pdf", detail: str | None = None) -> Attachment:
    return Attachment(form, None, name, url, detail=detail)


def carried(form: str, content: bytes, kind: str, name: str = "a.bin", detail: str | None = None) -> Attachment:
    return Attachment(form, kind, name, None, content, hashlib.sha256(content).hexdigest(), detail)


def call(*attachments: Attachment, text: str = "look", **params: Any) -> ApiCall:
    prompt = Prompt([{"role": "system", "content": "s"}, {"role": "user", "content": text}], attachments)
    return next(dialogue(Model("m", params))(prompt))


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.parametrize(
    ("attachment", "part"),
    [
        # 3.1 and 3.3: an image, or a PDF by its address or whole
        (linked("image_url"), {"type": "image_url", "image_url": {"url": URL}}),
        (
            carried("image_url", png(), "image/png"),
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(png())}"}},
        ),
        (
            carried("image_url", pdf(), "application/pdf"),
            {"type": "image_url", "image_url": {"url": f"data:application/pdf;base64,{encoded(pdf())}"}},
        ),
        (linked("image_url", detail="low"), {"type": "image_url", "image_url": {"url": URL, "detail": "low"}}),
        # 3.4: the two forms of a PDF
        (linked("file"), {"type": "file", "file": {"filename": "a.pdf", "file_data": URL}}),
        (linked("file_url"), {"type": "file_url", "file_url": {"url": URL}}),
        (
            carried("file", pdf(), "application/pdf", "é\n.pdf"),
            {
                "type": "file",
                "file": {"filename": "é\n.pdf", "file_data": f"data:application/pdf;base64,{encoded(pdf())}"},
            },
        ),
        (
            carried("file_url", pdf(), "application/pdf"),
            {"type": "file_url", "file_url": {"url": f"data:application/pdf;base64,{encoded(pdf())}"}},
        ),
        (
            carried("input_audio", wav(), "audio/wav"),
            {"type": "input_audio", "input_audio": {"data": encoded(wav()), "format": "wav"}},
        ),
        (
            carried("input_audio", MP3, "audio/mpeg"),
            {"type": "input_audio", "input_audio": {"data": encoded(MP3), "format": "mp3"}},
        ),
    ],
)
def test_each_form_is_the_part_that_is_documented(attachment: Attachment, part: dict[str, Any]) -> None:
    made = call(attachment)
    body = orjson.loads(made.body)
    assert body["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "look"}, part]},
    ]
    # Canonical, but for what travels beside the question.
    assert body.pop("stream") is False
    assert made.body == canonical(body)[:-1] + b',"stream":false}'


@pytest.mark.parametrize("form", ["image_url", "file", "file_url"])
def test_the_question_holds_a_digest_in_place_of_the_content(form: str) -> None:
    made = call(carried(form, png(), "image/png"))
    digest = hashlib.sha256(png()).hexdigest()
    assert f"sha256:{digest};image/png".encode() in made.question
    assert encoded(png()).encode() not in made.question
    body = orjson.loads(made.body)
    del body["stream"]
    told = canonical(body).decode().replace(f"data:image/png;base64,{encoded(png())}", f"sha256:{digest};image/png")
    assert made.question.decode() == told


def test_a_question_is_the_same_in_every_version() -> None:
    """A change here buys every answer about an attachment again."""
    made = call(
        carried("image_url", b"\x89PNG\r\n\x1a\n", "image/png", detail="high"),
        carried("file", b"%PDF-", "application/pdf", "a.pdf"),
        carried("input_audio", b"ID3", "audio/mpeg"),
        linked("file_url"),
    )
    assert made.question.decode() == (
        '{"messages":[{"content":"s","role":"system"},{"content":[{"text":"look","type":"text"},'
        '{"image_url":{"detail":"high","url":"sha256:'
        '4c4b6a3be1314ab86138bef4314dde022e600960d8689a2c8f8631802d20dab6;image/png"},"type":"image_url"},'
        '{"file":{"file_data":"sha256:'
        '38523c087796e5d5dd1cf9bad1fb026781a838dd9dd2cf8af58b9f6502a46778;application/pdf","filename":"a.pdf"},"type":"file"},'
        '{"input_audio":{"data":"sha256:041149186b23a9502aea5a4e81bbc9620d2b4b76b4bad94e36c744abcf9d3771;audio/mpeg","format":"mp3"},"type":"input_audio"},'
        '{"file_url":{"url":"https://a.example/a.pdf"},"type":"file_url"}],"role":"user"}],"model":"m"}'
    )


def test_a_name_is_part_of_the_question_only_where_it_is_sent() -> None:
    def questions(form: str) -> int:
        return len({call(carried(form, pdf(), "application/pdf", name)).question for name in ("a.pdf", "b.pdf")})

    assert [questions(form) for form in ("image_url", "file_url", "file")] == [1, 1, 2]


def test_content_form_and_detail_each_make_another_question() -> None:
    asked = {
        call(*attachments).question
        for attachments in (
            [carried("image_url", png(1), "image/png")],
            [carried("image_url", png(2), "image/png")],
            [carried("image_url", png(1), "image/png", detail="low")],
            [carried("file", png(1), "image/png")],
            [carried("image_url", png(1), "image/png"), carried("image_url", png(2), "image/png")],
            [carried("image_url", png(2), "image/png"), carried("image_url", png(1), "image/png")],
            [linked("image_url")],
            [],
        )
    }
    assert len(asked) == 8


def test_words_that_look_like_a_digest_stay_words() -> None:
    digest = hashlib.sha256(png()).hexdigest()
    text = f"sha256:{digest};image/png"
    made = call(carried("image_url", png(), "image/png"), text=text)
    user = orjson.loads(made.body)["messages"][1]["content"]
    assert user[0]["text"] == text
    assert user[1]["image_url"]["url"].startswith("data:image/png;base64,")


def test_without_attachments_nothing_changes() -> None:
    """Keys of checkpoints that are there already: content stays plain text."""
    made = call()
    assert made.question == (
        b'{"messages":[{"content":"s","role":"system"},{"content":"look","role":"user"}],"model":"m"}'
    )
    assert (made.attachments, made.attached_bytes, made.weight) == (0, 0, len(made.body))


def test_they_go_with_the_last_user_message() -> None:
    messages = [
        {"role": role, "content": f"{at}"} for at, role in enumerate(["user", "assistant", "user", "assistant"])
    ]
    body = orjson.loads(next(dialogue(Model("m"))(Prompt(messages, [linked("file_url")]))).body)
    assert [type(message["content"]) for message in body["messages"]] == [str, str, list, str]


def test_without_a_user_message_the_row_is_refused_unsent() -> None:
    with pytest.raises(RowRejected):
        next(dialogue(Model("m"))(Prompt([{"role": "system", "content": "x"}], [linked("file_url")])))


def test_the_content_does_not_count_as_text() -> None:
    plain, large = call(), call(carried("image_url", png(1, 3_000_000), "image/png"), linked("file_url"))
    assert large.attachments == 2
    assert len(large.body) > 4_000_000
    assert len(plain.body) < large.text_bytes < len(plain.body) + 300
    assert large.for_row("k").weight == large.weight < 10_000
