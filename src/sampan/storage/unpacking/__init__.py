"""Layers unpacked in processes of their own: side by side, and apart from the daemon.

A layer is what a stranger wrote, and taking it apart is a second of Python: neither belongs into
the process that serves everybody. ``server`` is a small interpreter, without threads, that forks a
child for each layer; ``client`` starts it when it is needed and lets it go when it is not. A child
is handed descriptors (the blob, the directory, the layers below) and has no names of anything.
"""
