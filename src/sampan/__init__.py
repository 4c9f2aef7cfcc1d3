"""Sampan: a complete container engine in Python.

Three planks make a container: namespaces (what a process can see), cgroups (what it can use) and
a layered file system (what it stands on). ``docs/architecture.md`` is the map of the packages.

This module stays empty of imports: the container's own processes load it too.
"""

__version__ = "0.1.0"
