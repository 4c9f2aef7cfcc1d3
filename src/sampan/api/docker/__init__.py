"""The Docker Engine API, 1.24 to 1.51: routes by tag, streams, versions, errors.

``server`` is the door; everything else here is its parts.
"""
