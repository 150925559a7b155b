"""How the families of models behind one gateway answer on the chat route, each in a shape of its own.

Chosen by the model's name. All of it is made up: the shapes follow what the gateway's pages show, and where they show
nothing (no source was found for the replies of gpt-4o-image and veo there) what siblings of that gateway send.

- ``gemini-*image*``: words, then a picture as a data URL in markdown, for about 1,307 tokens.
- ``gpt-4o-image*``: lines of progress, then markdown links to a picture. No source for this gateway.
- ``flux*``: the prompt once more as a JSON block, a line of progress, a markdown picture; calls itself ``flux``, and
  says ``text/plain`` around its JSON.
- ``veo*``: progress as quoted markdown (task, preview, dots), then two markdown links to a film. No source for this
  gateway.
- ``gemini-*pro*``: thinks, and counts its thoughts among the completion's tokens without saying so; keys sorted.
- All others (``claude-*``, ``grok-*``, ``doubao-*``, ``gpt-*``, ``gemini-*flash*`` ...): the plain shape.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import orjson

from pipeline.simulator.completion import Answer
from pipeline.simulator.media import png
from pipeline.simulator.question import Question, tokens_of

_IMAGE_TOKENS = 1290  # what Gemini takes for a picture that it makes
_ROOT = (
    "http://media.invalid"  # stands for the server's address until the answer is counted: it must not change the bill
)

Say = Callable[[str, str], str]
"""From the prompt and the name of a file to a content."""


def _gpt_image(_prompt: str, name: str) -> str:
    progress = "\n".join(f"> Progress: {share}%" for share in (10, 45, 90, 100))
    link = f"{_ROOT}/{name}.png"
    return f"> The simulator draws ...\n{progress}\n\n![image]({link})\n\n[Download]({link})"


def _flux(prompt: str, name: str) -> str:
    asked = orjson.dumps({"prompt": prompt[:200]}).decode()
    return f"```json\n{asked}\n```\n\n> Progress: 100%\n\n![flux]({_ROOT}/{name}.png)"


def _veo(_prompt: str, name: str) -> str:
    dots = "\n".join("> " + "." * count for count in (3, 6, 9))
    film = f"{_ROOT}/{name}.mp4"
    return (
        f"> Task ID: `veo3:{name}`\n> [Preview]({_ROOT}/{name}.png)\n{dots}\n> Done.\n\n"
        f"[Watch]({film}) | [Download]({film})"
    )


_LINKS: Mapping[str, tuple[Say, str | None]] = {
    "gpt-4o-image": (_gpt_image, None),
    "flux": (_flux, "flux"),
    "veo": (_veo, None),
}
_FAMILIES = (
    ("gemini-image", re.compile(r"gemini-.*image")),
    ("gemini-pro", re.compile(r"gemini-.*\bpro\b")),
    *((start, re.compile(start)) for start in _LINKS),
)


@lru_cache(maxsize=256)
def family(model: str) -> str:
    """Empty for the many that write the plain shape. The maker's name may stand in front: ``google/gemini-2.5-pro``."""
    bare = model.rpartition("/")[2].lower()
    return next((name for name, pattern in _FAMILIES if pattern.match(bare)), "")


def pictured(question: Question, words: str, name: str, root: str) -> Answer | None:
    """The answer of a model that makes pictures or films; None for those that write. ``root``: where media are served.

    Too few ``max_tokens`` end it before the picture.
    """
    kind = family(question.model)
    if kind == "gemini-image":
        data = base64.b64encode(png(name)).decode()
        return _counted(question, words, f"{words}\n\n![image](data:image/png;base64,{data})", _IMAGE_TOKENS)
    if kind not in _LINKS:
        return None
    say, told = _LINKS[kind]
    text = say(next((text for role, text in reversed(question.texts) if role == "user"), ""), name)
    return _counted(question, "", text, tokens_of(text), root=root, model=told)


def _counted(
    question: Question, before: str, text: str, tokens: int, *, root: str = "", model: str | None = None
) -> Answer:
    tokens += tokens_of(before)
    if question.max_tokens is not None and tokens > question.max_tokens:
        said = before.encode()[: 4 * question.max_tokens].decode(errors="ignore")
        return Answer(said, "length", question.prompt_tokens, question.max_tokens, 0, model)
    return Answer(text.replace(_ROOT, root), "stop", question.prompt_tokens, tokens, 0, model)


def dressed(completion: dict[str, Any], model: str) -> dict[str, Any]:
    """The completion as the model's family writes it."""
    if family(model) != "gemini-pro":
        return completion
    counts = {name: completion["usage"][name] for name in ("completion_tokens", "prompt_tokens", "total_tokens")}
    (choice,) = completion["choices"]
    message = {"content": choice["message"]["content"], "role": "assistant"}
    return {
        "choices": [{"finish_reason": choice["finish_reason"], "index": 0, "message": message}],
        **{name: completion[name] for name in ("created", "id", "model", "object")},
        "usage": counts,
    }


def content_type(model: str) -> str:
    """What a whole reply says that it is."""
    return "text/plain" if family(model) == "flux" else "application/json"
