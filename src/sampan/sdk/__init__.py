"""The door for Python programs: ``import sampan`` (docs/sdk.md).

``steps`` is how waiting is written once for programs with and without asyncio; ``session`` what one
program holds (a zygote, a directory, a parent of cgroups), ``execution`` one container of it from
its making to its result, ``images`` and ``roots`` what it stands on; ``options`` and ``result`` the
values that go in and come out. ``blocking`` and ``awaiting`` are the two faces.

This module stays empty of imports: ``sampan`` loads what is asked for.
"""
