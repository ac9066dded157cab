"""The demo: a whole trading loop around Tidegate, on the December 2017 bars of BTC-USD and EUR-USD.

Read in this order: `market` (bars and the ticks made of them), `accounts` (who trades what, and the worker's
configuration), `strategies`, `portfolio`, `executor` and `mishaps` (the desk's own systems, and what goes wrong),
`desk` and `loop` (all of them as one pure closed loop), `wire` and `workers` (the same loop through Kafka),
`chronicle` (what happened), `live`, `summary`, `chart` and `report` (what a user sees of it), `verify` (the proof,
from the topics alone) and `__main__`.
"""
