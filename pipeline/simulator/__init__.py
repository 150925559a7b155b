"""An OpenAI-compatible endpoint on loopback whose answers are made up: for demos, rehearsals, tests and benchmarks."""

from __future__ import annotations

from pipeline.simulator.chance import body_hash
from pipeline.simulator.faults import FAULTS, GROUPS, Fault
from pipeline.simulator.lifecycle import Simulator, serve
from pipeline.simulator.server import create_app
from pipeline.simulator.settings import Settings

__all__ = ["FAULTS", "GROUPS", "Fault", "Settings", "Simulator", "body_hash", "create_app", "serve"]
