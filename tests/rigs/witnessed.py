"""The command with a witness: notes, in a file of its own, what was received and what was acknowledged.

Run as ``python -m tests.rigs.witnessed NOTES run JOB ...``, or ``hand`` and its descriptors in place of the verb, which
is how a run of several processes starts the others. Notes are lines ``received KEY`` and ``acknowledged N``,
each one unbuffered write, so that they survive the ``kill -9`` that the rig is about to send.
"""

from __future__ import annotations

import os
import sys

from pipeline.cli import main
from pipeline.crew import hand, mate
from pipeline.provider.client import Client
from pipeline.records import ApiCall, ApiReply
from pipeline.storage.journal import Segment
from pipeline.storage.writer import Writer


def watch(path: str) -> None:
    notes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    send, acknowledge = Client.send, Writer._acknowledge

    async def noted_send(self: Client, call: ApiCall) -> ApiReply:
        reply = await send(self, call)
        os.write(notes, f"received {call.row}\n".encode())
        return reply

    def noted_acknowledge(self: Writer, segment: Segment, records: int) -> None:
        count = max(0, records - segment.acknowledged)
        keys = [
            body[body.index(b'"k":"') + 5 :][:32].decode()
            for body in list(self._unacknowledged)[:count]
            if body.startswith(b'{"e":"o"')
        ]
        acknowledge(self, segment, records)
        os.write(notes, "".join(f"acknowledged {key}\n" for key in keys).encode())

    Client.send = noted_send  # type: ignore[method-assign]
    Writer._acknowledge = noted_acknowledge  # type: ignore[method-assign]


if __name__ == "__main__":
    notes = sys.argv.pop(1)
    watch(notes)
    if sys.argv[1] == "hand":
        sys.exit(hand.main(sys.argv[2:]))
    mate.HAND[:] = ["-m", "tests.rigs.witnessed", notes, "hand"]
    sys.argv[0] = "pipeline"
    main()
