"""Which key was probably meant, and which keys of ``model`` are refused although any key may stand there."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, Final, get_args

from pipeline.spec.block import Block
from pipeline.spec.document import KeyPath, join, label
from pipeline.spec.model import JobSpec, ModelSpec

# fmt: off
# The chat request fields that the gateway's own client accepts.
CHAT_PARAMS: Final = frozenset({
    "temperature", "top_p", "n", "seed", "stop", "max_tokens", "max_completion_tokens", "reasoning_effort",
    "response_format", "tools", "tool_choice", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs",
    "top_logprobs", "modalities", "verbosity", "service_tier", "web_search_options", "prompt_cache_key", "user",
    "metadata",
})
# Fields of other servers behind the same request form, so that none is taken for a slip of the pen.
_OTHER_PARAMS: Final = frozenset({
    "top_k", "top_a", "top_n", "min_p", "min_tokens", "typical_p", "repetition_penalty", "length_penalty",
    "thinking", "reasoning", "safety_settings", "extra_body", "guided_json", "guided_choice",
    "parallel_tool_calls", "functions", "function_call", "store", "audio", "prediction", "image", "size",
    "quality", "aspect_ratio", "resolution", "duration", "num_ctx", "provider", "plugins", "transforms",
    "models", "route",
})
# fmt: on
REFUSED_PARAMS: Final = {
    "stream": "is no part of the question; write it as endpoint.stream",
    "stream_options": "is set by the tool where endpoint.stream is true; remove it",
    "messages": "is made from prompt for each row; write it as prompt.messages",
    "model": "is the request field that model.name fills; write it as model.name",
    "params": "is no block of the spec; write its keys directly under model",
}
_OTHER_NAMES: Final = {
    "limits.requests_per_minute": "rpm requests_per_min max_rpm",
    "limits.tokens_per_minute": "tpm tokens_per_min max_tpm",
    "limits.input_tokens_per_minute": "itpm input_tpm",
    "limits.output_tokens_per_minute": "otpm output_tpm",
    "limits.concurrency": "workers max_workers parallel threads max_concurrency concurrent in_flight",
    "prompt.user": "template text question user_prompt prompt_template",
    "prompt.system": "system_prompt instructions",
    "prompt.attachments": "images attachment pictures",
    "endpoint.api_key_env": "api_key apikey key token api_key_name key_env",
    "endpoint.base_url": "url base api_base host address",
    "endpoint.timeout_s": "timeout timeouts",
    "retry.max_attempts": "retries max_retries attempts tries",
    "retry.max_wait_s": "max_wait wait backoff",
    "input.path": "paths file files csv source filename",
    "input.where": "filter sql condition query",
    "input.id": "id_column key_column row_id",
    "input.limit": "rows max_rows head first",
    "output.path": "out output_dir folder dir directory output_path",
    "budget.usd": "max_cost cost money dollars max_usd",
}
_ALIASES: Final = {alias: target for target, aliases in _OTHER_NAMES.items() for alias in aliases.split()}

_PARAMS: Final = ModelSpec.model_fields["params"]  # no key of the file: it gathers the free ones


def keys_of(block: type[Block]) -> dict[str, type[Block] | None]:
    """The keys as a user writes them, each with the block it opens."""
    fields = block.model_fields.items()
    return {field.alias or name: _block_in(field.annotation) for name, field in fields if field is not _PARAMS}


def _block_in(annotation: Any) -> type[Block] | None:
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return annotation
    return next((found for part in get_args(annotation) if (found := _block_in(part))), None)


def block_at(path: KeyPath) -> type[Block] | None:
    """The block that a path leads into; None when it leads to a plain value or nowhere."""
    block: type[Block] | None = JobSpec
    for key in path:
        if isinstance(key, str) and block is not None:
            block = keys_of(block).get(key)
    return block


def _all_keys() -> dict[str, str]:
    """Each key below the top level, with its full path; of equal names the first."""
    found: dict[str, str] = {}
    for top, block in keys_of(JobSpec).items():
        for key in keys_of(block) if block is not None else ():
            found.setdefault(key, f"{top}.{key}")
    return found


_ELSEWHERE: Final = {**{param: f"model.{param}" for param in sorted(CHAT_PARAMS)}, **_all_keys(), **_ALIASES}


def likely(path: KeyPath) -> str | None:
    """The key that an unknown one probably stands for: its name when in the same block, else its full path."""
    key, where = _folded(str(path[-1])), join("", path[:-1])
    block = block_at(path[:-1])
    names = {name: name for name in (keys_of(block) if block is not None else ())}
    names |= {alias: target.split(".")[1] for alias, target in _ALIASES.items() if target.split(".")[0] == where}
    if key in names:
        return names[key]
    if key in _ELSEWHERE:
        return _ELSEWHERE[key]
    if near := get_close_matches(key, names, 1, 0.6):
        return names[near[0]]
    far = get_close_matches(key, _ELSEWHERE, 1, 0.8)
    return _ELSEWHERE[far[0]] if far else None


def unknown_key(path: KeyPath) -> str:
    if meant := likely(path):
        return f"is not a known key; did you mean {meant}?"
    block = block_at(path[:-1])
    known = ", ".join(keys_of(block)) if block is not None else ""
    return f"is not a known key; known here: {known}"


def param_problem(key: str) -> str | None:
    """Why a key of ``model`` is refused; None when it goes into the request body."""
    if key in REFUSED_PARAMS:
        return REFUSED_PARAMS[key]
    if key in CHAT_PARAMS or key in _OTHER_PARAMS:
        return None
    known = {_squeezed(name): name for name in sorted(CHAT_PARAMS | {"name"})}
    near = get_close_matches(_squeezed(key), known, 1, 0.86)
    return f"is not a known chat parameter; did you mean {label(known[near[0]])}?" if near else None


def _folded(key: str) -> str:
    """maxTokens, max-tokens and MAX_TOKENS are max_tokens."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).replace("-", "_").lower()


def _squeezed(key: str) -> str:
    return _folded(key).replace("_", "")
