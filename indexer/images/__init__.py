"""Decoding image files in worker processes, and embedding image collections."""
