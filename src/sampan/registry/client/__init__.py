"""A client of the OCI distribution specification 1.1 and the Docker Registry HTTP API v2.

From below: ``connection`` (an HTTP exchange), ``http`` (a pool of them, through proxies), ``tls``,
``auth`` (challenges and tokens), ``session`` (one registry: where it is, who we are),
``repository`` (manifests and tags), ``download`` and ``upload`` (blobs). All of it is asyncio, and
runs in the carrier only: TLS costs megabytes that the daemon is to be without.
"""
