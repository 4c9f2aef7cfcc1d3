"""The OCI distribution API (docs/registry-server.md): routes over ``sampan.registry.server``."""
