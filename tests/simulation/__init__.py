"""Deterministic simulation: the partition's own logic over a log and a store in memory, with a crash at every boundary.

A seed decides everything: the desk's records, the batches, which process dies at which step, which one is only paused
and wakes up later as a zombie, what its disk looks like then. The checker shares no code with ``Partition``.
"""
