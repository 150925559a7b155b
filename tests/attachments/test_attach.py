from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import quote_from_bytes

import pytest

from pipeline.attachments import Attach, Wanted
from pipeline.attachments.attach import is_address
from pipeline.errors import SpecError, Unattachable
from pipeline.records import Attachment
from tests.attachments.made import MP3, pdf, png, wav

FILES = {
    "a.png": png(1),
    "sub/b.pdf": pdf(),
    "c.wav": wav(),
    "d.mp3": MP3,
    "page.png": b"<html>not found",
    "e:f.png": png(2),
}


def read(path: str) -> bytes:
    try:
        return FILES[path]
    except KeyError:
        raise Unattachable(f"{path!r}: no such file") from None


def one(value: Any, *, reader: Any = read, max_bytes: int = 1_000, **wanted: Any) -> Attachment:
    (found,) = Attach([Wanted(column="x", **wanted)], reader, max_bytes).of({"x": value})
    return found


def data(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    ("value", "form", "kind"),
    [
        ("a.png", "image_url", "image/png"),
        ("sub/b.pdf", "file", "application/pdf"),
        ("c.wav", "input_audio", "audio/wav"),
        ("d.mp3", "input_audio", "audio/mpeg"),
        (data(png()), "image_url", "image/png"),
        (data(pdf(), "application/pdf"), "file", "application/pdf"),
        ("https://a.example/x.jpg", "image_url", None),
        ("https://a.example/x.pdf?sig=1", "file", None),
        ("https://a.example/x", "image_url", None),
        ("HTTP://a.example/x.PDF", "file", None),
        ("e:f.png", "image_url", "image/png"),
        ("  a.png\n", "image_url", "image/png"),
    ],
)
def test_what_is_not_said_is_decided_by_the_type(value: str, form: str, kind: str | None) -> None:
    found = one(value)
    assert (found.form, found.media_type) == (form, kind)
    assert (found.url is None) is (kind is not None)


def test_an_address_is_passed_on_as_it_stands() -> None:
    url = "https://a.example/b%20c/My%20Scan.pdf?x=1#p"
    found = one(url)
    assert (found.url, found.content, found.sha256, found.name) == (url, None, None, "My Scan.pdf")


def test_the_same_content_is_the_same_attachment_from_a_file_and_from_the_table() -> None:
    """Whatever the data: address says of its type, and however it is written."""
    from_file = one("a.png")
    assert from_file.sha256 == hashlib.sha256(png(1)).hexdigest()
    encoded = base64.b64encode(png(1)).decode()
    written = [
        data(png(1)),
        data(png(1), "image/jpg"),
        "DATA:image/png;charset=x;BASE64," + encoded,
        f"data:;base64,{encoded[:10]}\n {encoded[10:]}",
        "data:image/png," + quote_from_bytes(png(1)),
    ]
    for address in written:
        found = one(address)
        assert (found.content, found.sha256, found.media_type) == (from_file.content, from_file.sha256, "image/png")


def test_form_and_detail_are_as_asked() -> None:
    assert one("sub/b.pdf", form="image_url").form == "image_url"
    assert one("a.png", form="file").name == "a.png"
    assert one("sub/b.pdf").name == "b.pdf"
    assert one(data(pdf())).name == "attachment.pdf"
    assert one("a.png", detail="low").detail == "low"
    assert one("sub/b.pdf", detail="low").form == "image_url"


@pytest.mark.parametrize(
    ("value", "wanted", "words"),
    [
        (None, {}, "optional: true"),
        ("", {}, "is empty"),
        (" \t", {}, "is empty"),
        ("gone.png", {}, "no such file"),
        ("A" * 5_000, {}, "data:TYPE;base64,CONTENT"),
        ("page.png", {}, "nothing that can be attached, by its first bytes"),
        ("a.png", {"form": "input_audio"}, "input_audio takes audio"),
        ("c.wav", {"form": "image_url"}, "image_url takes image or pdf"),
        ("https://a.example/x.mp3", {}, "never fetched"),
        ("https://a.example/x", {"form": "input_audio"}, "never fetched"),
        ("s3://bucket/x.png", {}, "none that can be passed on"),
        ("file:///etc/passwd", {}, "none that can be passed on"),
        ("https://", {}, "names no host"),
        ("https:x.png", {}, "names no host"),
        ("https://[::1/x.png", {}, "names no host"),
        ("https://a.example/a b.png", {}, "%20"),
        ("https://a.example/a\nb.png", {}, "%20"),
        ("data:image/png;base64", {}, "no comma"),
        ("data:image/png;base64,", {}, "is empty"),
        ("data:image/png;base64,iVBO!", {}, "no whole base64"),
        ("data:image/png;base64,iVBOR", {}, "no whole base64"),
        ("data:text/plain,hello", {}, "nothing that can be attached"),
        (data(png(1, 1_000)), {}, "max_mb"),
        ("data:image/png;base64," + "A" * 5_000, {}, "max_mb"),
    ],
)
def test_a_cell_that_cannot_go_says_which_and_what_to_do(value: Any, wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(Unattachable, match="attachment column 'x': ") as caught:
        one(value, **wanted)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_signed_address_is_in_no_message() -> None:
    for bad in ("https://a.example/ ?sig=SECRET", "https:///?sig=SECRET", "https://a.example/x.mp3?sig=SECRET"):
        with pytest.raises(Unattachable) as caught:
            one(bad)
        assert "SECRET" not in str(caught.value)


def test_without_a_root_a_path_is_refused_and_addresses_go() -> None:
    with pytest.raises(Unattachable, match=r"attachments\.root"):
        one("a.png", reader=None)
    with pytest.raises(Unattachable, match="none that can be passed on"):
        one("s3://a/b.png", reader=None)
    assert one("https://a.example/a.png", reader=None).url
    assert one(data(png()), reader=None).content == png()
    assert not Attach([Wanted(column="x")], None, 9).reads_files


def test_an_optional_cell_that_is_blank_attaches_nothing() -> None:
    attach = Attach([Wanted(column="x", optional=True), Wanted(column="y")], read, 1_000)
    assert attach.columns == ("x", "y")
    assert [len(attach.of({"x": x, "y": "a.png"})) for x in (None, "", " ", "a.png")] == [1, 1, 1, 2]
    with pytest.raises(Unattachable):  # optional does not forgive a wrong one
        attach.of({"x": "gone.png", "y": "a.png"})


def test_what_is_fixed_is_read_once_and_first() -> None:
    asked = []

    def reader(path: str) -> bytes:
        asked.append(path)
        return read(path)

    attach = Attach([Wanted(file="sub/b.pdf"), Wanted(column="x"), Wanted(url=data(png()))], reader, 1_000)
    assert asked == ["sub/b.pdf"]
    for _ in range(3):
        assert [found.form for found in attach.of({"x": "a.png"})] == ["file", "image_url", "image_url"]
    assert asked == ["sub/b.pdf", "a.png", "a.png", "a.png"]


@pytest.mark.parametrize("wanted", [Wanted(file="gone.pdf"), Wanted(url="data:image/png,hello")])
def test_something_fixed_that_cannot_go_is_a_mistake_of_the_spec(wanted: Wanted) -> None:
    with pytest.raises(SpecError, match=r"prompt\.attachments\[1\]\.(file|url): "):
        Attach([Wanted(column="x"), wanted], read, 1_000)


def test_the_question_of_a_job_changes_with_what_is_fixed_and_how_it_is_asked() -> None:
    versions = [
        [Wanted(file="a.png")],
        [Wanted(file="e:f.png")],
        [Wanted(file="a.png", detail="low")],
        [Wanted(file="a.png", form="file")],
        [Wanted(column="x")],
        [Wanted(column="x", optional=True)],
        [Wanted(url="https://a.example/a.png")],
        [Wanted(url="https://a.example/b.png")],
    ]
    questions = [repr(Attach(wanted, read, 1_000).question) for wanted in versions]
    assert len(set(questions)) == len(questions)


def test_the_paths_of_a_row_are_those_that_are_read() -> None:
    attach = Attach([Wanted(column="x", optional=True), Wanted(column="y"), Wanted(file="a.png")], read, 1_000)
    assert list(attach.paths({"x": None, "y": "https-photo.png"})) == ["https-photo.png"]
    assert list(attach.paths({"x": " a.png ", "y": data(png())})) == ["a.png"]
    assert [is_address(text) for text in ("https://a", " DATA:x", "https-a.png", "datafile", "c:d")] == [
        True,
        True,
        False,
        False,
        False,
    ]
