"""A daemon's containers and images as objects: ``sampan.connect``, in both forms.

Small on purpose: what a program that wants containers to outlive it needs, with what the Engine
API answers as typed values. Everything else is there through ``inspect``, as the API has it.
"""
