"""The daemon: one process per data root, the engine behind its sockets."""
