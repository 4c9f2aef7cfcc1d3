"""Layers and archives: packed streams, tar both ways, trees unpacked, compared and written."""
