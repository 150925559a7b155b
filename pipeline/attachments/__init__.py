"""What goes along with a prompt: cells, files and addresses in, ``Attachment`` records out.

``sniff`` tells what a content is; ``attach`` decides what becomes of it. Neither opens a file: a reader is handed in.
"""

from __future__ import annotations

from pipeline.attachments.attach import Attach, Wanted

__all__ = ["Attach", "Wanted"]
