"""What a registry knows: ``base`` says what a database does, ``sqlite`` is a file in the root."""
