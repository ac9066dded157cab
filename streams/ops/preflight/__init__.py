"""``tidegate preflight``: the checklist before a launch, run by machine.

``check`` says what a check is, ``context`` what it may look at, ``gather`` reads that from the broker and the machine.
Each other module holds the checks of some groups; ``registry`` is the one list of all. To add a check, write a function
``Context → Finding`` (or a coroutine, if it reads more than the context has), decorate it with
:func:`~streams.ops.preflight.check.check` and put it into that list.
"""
