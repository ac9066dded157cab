"""Deterministic simulation: real logic over logs, stores and groups in memory, and whatever a seed has befall them.

- ``run``: the life of one partition, with a crash at every boundary. A seed decides everything: the desk's records,
  the batches, which process dies at which step, which one is only paused and wakes up later as a zombie, what its disk
  looks like then. The checker shares no code with ``Partition``.
- ``handover``: the life of a consumer group, on an event loop whose time is simulated. Readers take partitions over
  and let them go, and a seed decides when the group rebalances, who is killed, frozen, cut off or stopped amid that,
  and how long everything takes.
"""
