"""The OCI runtime: a container from its ``config.json`` to its exit (runtime-spec 1.3.0).

``launch`` creates, ``exec`` adds a process, ``supervisor`` keeps one company, ``command`` is the
command line. Tier 0: the standard library only, and little of that.
"""
