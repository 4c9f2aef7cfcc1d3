"""Bytes at rest: blobs, layers, archives, snapshot drivers and the database."""
