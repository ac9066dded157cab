"""The same gate on other engines: the same decode, step and encode, and each engine's own way around them.

Every module runs as a process: ``python -m tests.benchmarks.peers.NAME CONFIG_JSON`` (see :class:`setup.Setup`).
"""
