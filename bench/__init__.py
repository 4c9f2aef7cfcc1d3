"""Measurements: every figure the README quotes is a command here that runs us and the peers."""
