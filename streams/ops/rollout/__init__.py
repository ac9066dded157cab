"""``tidegate rollout``: from testnet to full capital, phase by phase, enforced by the gate's ``rollout`` policy.

``phases`` says what each phase allows and asks (``phases.toml`` holds the defaults), ``course`` which phase is in force
since when, ``scope`` what is published for one, ``criteria`` what is missing for the next, ``evidence`` reads the
topics, ``commands`` is the command line.
"""
