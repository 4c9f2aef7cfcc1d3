"""Where a registry's bytes are: ``base`` says what a driver does, ``local`` is a directory,
``s3`` a bucket."""
