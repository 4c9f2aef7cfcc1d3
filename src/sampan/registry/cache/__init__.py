"""Being a cache of another registry (docs/registry-cache.md): what is asked for and is not here is
fetched there, verified, kept, and handed on while it comes.
"""
