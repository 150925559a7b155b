"""What looks like a key. A spec is committed, mailed and pasted into tickets, so a key has no place in it.

The rules are blunt on purpose: a false alarm costs one changed word, a missed key costs an account.
"""

from __future__ import annotations

import re
from typing import Final

REFUSED: Final = "a key in a spec is refused; name an environment variable in endpoint.api_key_env"
LOGIN_REFUSED: Final = "has a user name or a password in its address; a password in a spec is refused, remove it"

_SK: Final = re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}")
_KNOWN: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:sk_live_|rk_live_|gsk_|hf_|r8_|ghp_|gho_|github_pat_|glpat-|xox[abps]-|AIza|AKIA|xai-)"
    r"[A-Za-z0-9_-]{16,}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,})"
)
_BEARER: Final = re.compile(r"(?i)(?<![a-z])bearer\s+[^\s\"']{16,}")
_NAMED: Final = re.compile(
    r"(?i)(?:key|token|secret|password|signature|bearer)[\"']?(?:\s*[:=]\s*|\s+)[\"']?([a-z0-9_\-+/=.~]{20,})"
)
_PASSWORD_IN_URL: Final = re.compile(r"://[^/\s@:]*:[^/\s@]+@")
_KEY_NAME: Final = re.compile(r"(?i)(?:^|[_-])(?:key|apikey|token|secret|password|passwd|authorization|bearer)$")
_BODY_KEYS: Final = frozenset({"apikey", "authorization", "xapikey"})
_HARMLESS_NAMES: Final = frozenset({"prompt_cache_key"})


def looks_like_key(text: str, *, prose: bool = False) -> bool:
    """``prose`` (a prompt) is held to the one unmistakable form; random-looking words are normal in it."""
    if _SK.search(text):
        return True
    if prose:
        return False
    if _KNOWN.search(text) or _BEARER.search(text) or _PASSWORD_IN_URL.search(text):
        return True
    return any(is_random(match.group(1)) for match in _NAMED.finditer(text))


def refusal(text: str, *, prose: bool = False) -> str | None:
    """Why a value is refused, in words that do not show it; None when it is harmless."""
    if not looks_like_key(text, prose=prose):
        return None
    if _PASSWORD_IN_URL.search(text) and not _SK.search(text):
        return LOGIN_REFUSED
    return f"holds what looks like a key; {REFUSED}"


def is_random(text: str) -> bool:
    """Letters and digits in turns, 20 or more: a UUID, a hash or a key, hardly a word or a file name with a date."""
    packed = re.sub(r"[^A-Za-z0-9]", "", text)
    return len(packed) >= 20 and len(re.findall(r"[0-9]+", packed)) >= 2 and not packed.isdigit()


def names_a_key(name: str, value: str) -> bool:
    """Whether a mapping entry gives a key away by its name (``api_key: ...``)."""
    if name in _HARMLESS_NAMES:
        return False
    if re.sub(r"[_-]", "", name).lower() in _BODY_KEYS:
        return True
    return bool(_KEY_NAME.search(name)) and is_random(value)
