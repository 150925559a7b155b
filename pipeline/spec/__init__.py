"""The job spec: YAML in, ``JobSpec`` out, all problems at once.

``read`` turns text into plain values that remember their lines; ``shape`` applies the short forms and ``--set``;
``secrets`` and ``hints`` look at what the types cannot judge; ``model`` and ``endpoint`` are the types; ``load``
walks through them in this order. After it no room sees a dict, a short form or a default.
"""

from __future__ import annotations

from pipeline.spec.load import load
from pipeline.spec.model import JobSpec
from pipeline.spec.schema import json_schema
from pipeline.spec.starter import starter

__all__ = ["JobSpec", "json_schema", "load", "starter"]
