"""The steward: what an operator would do by the clock or by rote, as policies and commands like any operator's.

A process beside the gate (``tidegate steward``). The gate reads only what it publishes, so a dead steward slows and
loosens nothing, and replay stays exact. All of its work may be repeated.
"""

STEWARD = "tidegate"
"""The operator of what it publishes."""
