"""``sampan registry serve``: the process around ``sampan.api.distribution``."""
