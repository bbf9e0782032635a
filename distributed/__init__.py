"""Embedding over a Ray cluster; the only room that imports ray."""
