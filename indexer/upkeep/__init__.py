"""Verifying and repairing finished caption indexes, and choosing rows to remove."""
