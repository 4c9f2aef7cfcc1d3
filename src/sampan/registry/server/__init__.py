"""What a registry is, without HTTP (docs/registry-server.md): blobs and links, uploads, manifests,
tags, search and collection over one ``storage`` of bytes and one SQLite file.

Everything here is plain blocking code that any thread may call. ``core.Registry`` is the door.
"""
