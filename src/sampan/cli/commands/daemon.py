"""``daemon``: become the daemon. Its flags are its own (``sampan daemon --help``)."""

from __future__ import annotations

__all__ = ["daemon"]


def daemon(argv: list[str], host: str) -> int:
    """Run the daemon in this process; a global ``-H`` counts as its own."""
    from sampan.daemon.main import main

    return main([*(["-H", host] if host else []), *argv])
