"""Pictures, sound and video in an answer's text: where they stand, and of what kind they are. Pure; nothing is opened.

They come in two forms. *Inline*: a ``data:`` URL, whose bytes are in the text. *Linked*: an address, as a rule signed
and short-lived, behind which the bytes lie for a while.
"""

from __future__ import annotations

from pipeline.media.addresses import links
from pipeline.media.inline import file_name, may_hold_pieces, take
from pipeline.media.kinds import HEAD_BYTES, Kind, kind_of

__all__ = ["HEAD_BYTES", "Kind", "file_name", "kind_of", "links", "may_hold_pieces", "take"]
