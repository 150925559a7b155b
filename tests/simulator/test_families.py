from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from pipeline.provider.stream import Stream
from pipeline.simulator import Settings, Simulator
from pipeline.simulator.families import family
from pipeline.simulator.media import mp4, named, png
from pipeline.simulator.question import Refused, parse

LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
PNG = base64.b64encode(png("0" * 16)).decode()


@asynccontextmanager
async def asking() -> AsyncIterator[Any]:
    """A function that asks a model something; gives content type and JSON, a stream as the whole it adds up to."""
    async with Simulator(Settings(latency_s=0)) as simulator, aiohttp.ClientSession() as session:

        async def ask(model: str, content: Any = "a red kite", **more: Any) -> tuple[str, dict[str, Any]]:
            body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
            async with session.post(simulator.base_url + "/chat/completions", json=body) as reply:
                assert reply.status == 200, await reply.text()
                data = await reply.read()
            if not more.get("stream"):
                return reply.content_type, orjson.loads(data)
            stream = Stream()
            stream.feed(data)
            stream.end()
            read = stream.completion("")
            assert read is not None
            return reply.content_type, read

        ask.session = session  # type: ignore[attr-defined]
        ask.stats = simulator.stats  # type: ignore[attr-defined]
        yield ask


def content(completion: dict[str, Any]) -> str:
    return str(completion["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    ("model", "named_family"),
    [
        ("gemini-2.5-flash-image", "gemini-image"),
        ("gemini-2.0-flash-exp-image-generation", "gemini-image"),
        ("google/gemini-3-pro-image-preview", "gemini-image"),
        ("gemini-2.5-pro", "gemini-pro"),
        ("gpt-4o-image-vip", "gpt-4o-image"),
        ("flux-kontext-pro", "flux"),
        ("veo3-fast-frames", "veo"),
        *((name, "") for name in ("gemini-2.5-flash", "gpt-4o-mini", "claude-sonnet-4-5", "grok-4", "improbable-flux")),
        *((name, "") for name in ("doubao-1-5-vision-pro-32k-250115", "o3-mini", "deepseek-r1", "gemini-professor")),
    ],
)
def test_the_family_is_in_the_models_name(model: str, named_family: str) -> None:
    assert family(model) == named_family


@pytest.mark.parametrize("stream", [False, True])
async def test_a_gemini_image_is_words_and_a_picture_in_the_content_itself(stream: bool) -> None:
    async with asking() as ask:
        _, read = await ask("gemini-2.5-flash-image", stream=stream, stream_options={"include_usage": True})
        words, _, link = content(read).partition("\n\n")
        assert words
        found = re.fullmatch(r"!\[image\]\(data:image/png;base64,([^)]+)\)", link)
        assert found is not None
        assert size_of(base64.b64decode(found[1])) == (64, 64)
        assert 1290 < read["usage"]["completion_tokens"] < 1320
        assert ask.stats()["completion_tokens"] == read["usage"]["completion_tokens"]
        assert content((await ask("gemini-2.5-flash-image"))[1]) == content(read)
        assert content((await ask("gemini-2.5-flash-image", "a blue kite"))[1]) != content(read)
        _, cut = await ask("gemini-2.5-flash-image", max_tokens=300)
        assert (content(cut), cut["choices"][0]["finish_reason"]) == (words, "length")
        assert cut["usage"]["completion_tokens"] == 300


def size_of(picture: bytes) -> tuple[int, int]:
    """Every chunk of a PNG checked, and every row of it unpacked."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(picture):
        (length,) = struct.unpack_from(">I", picture, at)
        kind, data = picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", picture, at + 8 + length)[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height = struct.unpack_from(">II", chunks[b"IHDR"])
    assert len(zlib.decompress(chunks[b"IDAT"])) == height * (1 + 3 * width)
    return width, height


def boxes(film: bytes) -> list[bytes]:
    at, found = 0, []
    while at < len(film):
        (length,) = struct.unpack_from(">I", film, at)
        assert length >= 8
        found.append(film[at + 4 : at + 8])
        at += length
    assert at == len(film)
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "pictures", "links", "kind"),
    [("gpt-4o-image-vip", 1, 1, "image/png"), ("flux-kontext-pro", 1, 0, "image/png"), ("veo3", 0, 3, "video/mp4")],
)
async def test_links_of_an_answer_lead_to_files_of_their_kind(
    model: str, pictures: int, links: int, kind: str, stream: bool
) -> None:
    async with asking() as ask:
        _, read = await ask(model, stream=stream)
        found = LINK.findall(content(read))
        assert [bool(mark) for mark, _ in found].count(True) == pictures
        assert len(found) == pictures + links
        async with ask.session.get(found[-1][1]) as reply:
            assert (reply.status, reply.content_type, reply.headers["x-simulator"]) == (200, kind, "prompt-pipeline")
            data = await reply.read()
        assert boxes(data) == [b"ftyp", b"moov", b"mdat"] if kind == "video/mp4" else size_of(data) == (64, 64)
        assert content((await ask(model))[1]) == content(read)
        assert ask.stats()["requests"] == 2  # fetching a file is no request that anybody bills


async def test_progress_comes_before_the_links() -> None:
    async with asking() as ask:
        _, drawn = await ask("gpt-4o-image-vip")
        assert content(drawn).startswith("> ") and content(drawn).index("100%") < content(drawn).index("](")
        _, filmed = await ask("veo3-pro", stream=True)
        assert content(filmed).startswith("> Task ID: ") and "> ...\n" in content(filmed)
        assert content(filmed).count(".mp4)") == 2


async def test_flux_calls_itself_by_another_name_and_its_json_a_plain_text() -> None:
    async with asking() as ask:
        kind, read = await ask("flux-kontext-pro")
        assert (kind, read["model"]) == ("text/plain", "flux")
        assert content(read).startswith('```json\n{"prompt":"a red kite"}\n```')
        assert (await ask("flux-kontext-pro", stream=True))[0] == "text/event-stream"


async def test_gemini_pro_thinks_sorts_its_keys_and_tells_no_details() -> None:
    async with asking() as ask:
        _, read = await ask("gemini-2.5-pro")
        assert list(read) == sorted(read) == ["choices", "created", "id", "model", "object", "usage"]
        assert list(read["usage"]) == ["completion_tokens", "prompt_tokens", "total_tokens"]
        assert read["usage"]["completion_tokens"] > 2 * len(content(read)) / 4


async def test_a_typed_answer_is_asked_of_any_model() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {}}}}
    async with asking() as ask:
        for model in ("veo3", "gemini-2.5-flash-image", "claude-sonnet-4-5"):
            assert isinstance(orjson.loads(content((await ask(model, response_format=wanted))[1])), dict)


@pytest.mark.parametrize("name", ["x.png", "0" * 16, "0" * 16 + ".gif", "..%2fpng", "0" * 15 + "g.png"])
async def test_a_name_that_no_answer_links_to_is_not_there(name: str) -> None:
    assert named(name) is None
    async with (
        Simulator(Settings()) as simulator,
        aiohttp.ClientSession() as session,
        session.get(simulator.base_url.removesuffix("v1") + "media/" + name) as reply,
    ):
        assert reply.status == 404


def test_files_are_always_the_same_and_each_is_its_own() -> None:
    first, second = "0" * 16 + ".png", "1" * 16 + ".png"
    assert (png(first), mp4(first)) == (png(first), mp4(first))
    assert png(first) != png(second)
    assert mp4(first) != mp4(second)


GOOD = [
    ({"type": "text", "text": "what is this?"}, 4),
    ({"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}}, 85),
    ({"type": "image_url", "image_url": "https://x.example/a.png"}, 85),
    ({"type": "image_url", "image_url": {"url": "https://x.example/a.pdf"}}, 85),
    ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}, 85),
    ({"type": "file", "file": {"filename": "a.pdf", "file_data": "https://x.example/a.pdf"}}, 258),
    ({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}, 258),
    ({"type": "file_url", "file_url": {"url": "https://x.example/a.pdf"}}, 258),
    ({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}, 32),
]


@pytest.mark.parametrize(("part", "tokens"), GOOD)
async def test_a_part_is_taken_and_counted(part: dict[str, Any], tokens: int) -> None:
    async with asking() as ask:
        for model in ("claude-sonnet-4-5", "doubao-1-5-vision-pro-32k-250115", "grok-4", "veo3-fast-frames"):
            _, read = await ask(model, [{"type": "text", "text": "hi"}, part], max_tokens=5000)
            assert read["usage"]["prompt_tokens"] == 3 + 1 + tokens
            assert content(read)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text"},
        {"type": "text", "text": 7},
        {"type": "picture", "picture": "https://x.example/a.png"},
        {"type": "image_url"},
        {"type": "image_url", "image_url": {}},
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "image_url", "image_url": {"url": "http://["}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,n*t"}},
        {"type": "image_url", "image_url": {"url": "data:image/png,plain"}},
        {"type": "file", "file": {"filename": "a.pdf"}},
        {"type": "file", "file": "https://x.example/a.pdf"},
        {"type": "file_url", "file_url": {"url": 7}},
        {"type": "input_audio", "input_audio": {"data": "é", "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "exe"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg=="}},
    ],
)
def test_a_broken_part_is_refused_and_told_where(part: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, part]}]}
    with pytest.raises(Refused) as refused:
        parse(orjson.dumps(body))
    told = orjson.loads(refused.value.body)["error"]
    assert (refused.value.status, told["type"]) == (400, "invalid_request_error")
    assert told["param"].startswith("messages[0].content[1]")
