from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media import take
from tests.pictures import data_url, markdown, png

KEY = "0123456789abcdef" * 2
MP3 = b"ID3\x04" + bytes(40)


def put_back(text: str, urls: list[str], key: str = KEY) -> str:
    """The text as it came: each path replaced by the URL that it stands for."""
    taken = take(key, text, "media")
    found = taken.text
    for piece, url in zip(taken.pieces, urls, strict=True):
        assert found.count(f"media/{piece.name}") == 1
        found = found.replace(f"media/{piece.name}", url)
    return found


def test_a_markdown_image_becomes_its_path_and_its_bytes() -> None:
    picture = png(7)
    taken = take(KEY, f"Here it is:\n\n{markdown(picture, 'a [grey] square')}\n\nEnjoy.", "media")
    digest = hashlib.sha256(picture).hexdigest()
    name = f"{KEY}-1-{digest[:8]}.png"
    assert taken.text == f"Here it is:\n\n![a [grey] square](media/{name})\n\nEnjoy."
    assert [(piece.name, piece.data, piece.sha256) for piece in taken.pieces] == [(name, picture, digest)]


@pytest.mark.parametrize(
    "around",
    ["{}", "see {}.", '<img src="{}">', "`{}`", "[sound]({})", "(({}))", "\u00e9{}\u00e9", "a,{},b", "{}\n", "|{}|"],
)
def test_a_bare_one_is_found_wherever_it_ends(around: str) -> None:
    url = data_url(png(1))
    if around.startswith("\u00e9"):
        around = around.replace("\u00e9{}", "\u00e9 {}")
    text = around.format(url)
    assert len(take(KEY, text, "media").pieces) == 1
    assert put_back(text, [url]) == text


def test_the_type_is_what_the_bytes_say_and_only_then_what_is_said_of_them() -> None:
    text = " ".join([data_url(png(1), "image/jpeg"), data_url(MP3, "audio/wav"), data_url(b"\1\2\3" * 9, "video/mp4")])
    assert [piece.kind.ext for piece in take(KEY, text, "media").pieces] == ["png", "mp3", "mp4"]


def test_bytes_of_a_family_without_a_known_form_are_kept_as_bin() -> None:
    assert take(KEY, data_url(b"\1\2\3" * 9, "image/x-strange"), "media").pieces[0].kind.ext == "bin"


def test_the_same_picture_twice_is_two_files_of_equal_bytes() -> None:
    taken = take(KEY, f"{markdown(png(1))} {markdown(png(1))} {markdown(png(2))}", "media")
    names = [piece.name for piece in taken.pieces]
    assert [name.split("-")[1] for name in names] == ["1", "2", "3"]
    assert taken.pieces[0].sha256 == taken.pieces[1].sha256 != taken.pieces[2].sha256


WHOLE = data_url(png(1))


@pytest.mark.parametrize(
    "text",
    [
        WHOLE[:-9] + "!" + WHOLE[-8:],  # a character that is none of base64's
        WHOLE[:-7],  # cut by the output limit
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA...",  # short for a longer one
        "data:image/png;base64,",
        "data:image/png;base64,iVBO",
        "data:image/png;base64,AB==",  # decodes, but no encoder writes it
        "data:image/png;base64,====",
        "metadata:image/png;base64,iVBORw0KGgo=",
        "data:text/html;base64,PGh0bWw+PC9odG1sPg==",  # an answer about web pages
        "data:image/png;base64,PGh0bWw+PC9odG1sPg==",  # a page that calls itself a picture
        "data:font/woff2;base64,d09GMgABAAAAA",
        "data:,hello",
        "data:image/svg+xml,%3Csvg%3E",
    ],
)
def test_what_is_no_data_url_of_media_to_the_letter_stays_text(text: str) -> None:
    for around in (text, f"before ![x]({text}) after"):
        taken = take(KEY, around, "media")
        assert (taken.text, taken.pieces) == (around, ())


def test_a_broken_one_does_not_hide_the_next() -> None:
    text = f"![a](data:image/png;base64,iVBO...) {markdown(png(3))}"
    assert put_back(text, [data_url(png(3))]) == text


def test_sixteen_megabytes_are_one_piece() -> None:
    data = png(1) + bytes(12_000_000)
    taken = take(KEY, f"a {markdown(data)} b", "media")
    assert [len(piece.data) for piece in taken.pieces] == [len(data)]
    assert len(taken.text) < 100


def test_many_beginnings_without_an_end_take_no_longer_than_they_are() -> None:
    text = "data:image/png;base64,AAAA!" * 100_000
    assert take(KEY, text, "media").text == text


SOME = st.text(
    alphabet=st.sampled_from(list("ab ()[]!\"'<>\n\u00e9\U0001f600=:;,/+data:image/png;base64,")), max_size=40
)
URLS = st.builds(
    data_url,
    st.binary(min_size=1, max_size=30).map(lambda data: png(1) + data),
    st.sampled_from(["image/png", "image/webp", "audio/mpeg", "application/octet-stream", "image/png;name=a.png"]),
)


@given(SOME, st.lists(st.tuples(URLS, SOME), max_size=4))
def test_putting_the_bytes_back_gives_the_text_again(start: str, rest: list[tuple[str, str]]) -> None:
    text = start + "".join(f" {url}\n{after}" for url, after in rest)
    urls = [url for url, _ in rest]
    assert put_back(text, urls) == text
    held = [piece.data for piece in take(KEY, text, "media").pieces]
    assert held == [base64.b64decode(url.partition(";base64,")[2]) for url in urls]


@given(st.text())
def test_any_text_is_taken_and_what_is_taken_is_taken_once(text: str) -> None:
    once = take(KEY, text, "media")
    assert take(KEY, once.text, "media").text == once.text
