"""Containers as state machines, images as names, and all that happens to them.

``core.Engine`` is the face; the daemon's doors call its parts (``containers``, ``creation``,
``execs``, ``images``). This module imports nothing: the daemon's log is needed before the engine.
"""
