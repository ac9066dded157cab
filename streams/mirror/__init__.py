"""The mirror: what the gate knows, in Redis, for screens and for the executors' last look.

A process beside the gate (``tidegate mirror``) that only reads its topics. Never an authority: no part of the gate
reads Redis, and all of the model can be made again from Kafka. Layout and guarantees: ``README.md`` in this directory.
"""
