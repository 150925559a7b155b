"""The job spec: YAML in, ``JobSpec`` out, all problems at once.

``read`` turns text into plain values that remember their lines; ``shape`` applies the short forms and ``--set``;
``secrets`` and ``hints`` look at what the types cannot judge; ``model`` and ``endpoint`` are the types; ``load``
walks through them in this order. After it no room sees a dict, a short form or a default.
"""

from __future__ import annotations

from pipeline.spec.attach import AttachmentsBlock, AttachmentSpec
from pipeline.spec.endpoint import EndpointSpec, TimeoutSpec
from pipeline.spec.load import load
from pipeline.spec.model import (
    AlarmSpec,
    BudgetSpec,
    InputSpec,
    JobSpec,
    LimitsSpec,
    MessageSpec,
    ModelSpec,
    OutputSpec,
    PricesSpec,
    PromptSpec,
    RetrySpec,
)
from pipeline.spec.schema import json_schema
from pipeline.spec.starter import starter

__all__ = [
    "AlarmSpec",
    "AttachmentSpec",
    "AttachmentsBlock",
    "BudgetSpec",
    "EndpointSpec",
    "InputSpec",
    "JobSpec",
    "LimitsSpec",
    "MessageSpec",
    "ModelSpec",
    "OutputSpec",
    "PricesSpec",
    "PromptSpec",
    "RetrySpec",
    "TimeoutSpec",
    "json_schema",
    "load",
    "starter",
]
