from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media import links

SIGNED = "https://cdn.example.com/o/a%2Fb?X-Sig=a%2Bb%3D&Expires=1"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"![image]({SIGNED})", [SIGNED]),
        (f"![a [nested] one](<{SIGNED}>)", [SIGNED]),
        (f'![image]({SIGNED} "a title")', [SIGNED]),
        (f"![]({SIGNED}) and ![]({SIGNED})", [SIGNED]),
        (f"[a page]({SIGNED})", []),
        (f"see {SIGNED}.", []),
        ("> [watch](https://v.example/a.mp4) \n> [download](https://v.example/a.MP4?d=1)",
         ["https://v.example/a.mp4", "https://v.example/a.MP4?d=1"]),
        ("It is at https://v.example/a_(final).webm, I think.", ["https://v.example/a_(final).webm"]),
        ("(https://v.example/a.png)", ["https://v.example/a.png"]),
        ("![x](https://v.example/a_(b(c)).png)", ["https://v.example/a_(b(c)).png"]),
        ('<video src="http://v.example/a.mp4">', ["http://v.example/a.mp4"]),
        ("https://v.example/paper.pdf https://v.example/page.html https://v.example/?f=a.png", []),
        ("http:// https://[ http httpx://a/b.png ftp://a/b.png", []),
        ('{"prompt": "x", "url": "https://v.example/a.png"}', ["https://v.example/a.png"]),
    ],
)  # fmt: skip
def test_what_is_a_link_to_media(text: str, found: list[str]) -> None:
    assert links(text) == found


def test_an_address_without_an_end_is_no_link() -> None:
    assert links("![x](https://a.example/" + "b" * 10_000 + ".png)") == []


@given(st.text(alphabet=st.sampled_from(list("htps:/.png ()[]<>!\n?&\u00e9\\\"'"))))
def test_any_text_can_be_looked_at(text: str) -> None:
    for address in links(text):
        assert address in text
