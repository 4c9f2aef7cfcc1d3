"""The resolver: a process that answers DNS at 127.0.0.11 in containers, outside the daemon.

``messages`` is the format and ``names`` what is known, both without I/O; ``forward`` asks others;
``server`` has a container's sockets; ``main`` is the process, and ``client`` the daemon's side.
The process is tier 0: the standard library only. docs/network.md, "The resolver".
"""
