"""Searching caption indexes: exactly, through FAISS structures, or on GPUs."""
