"""Every score of the field on the same embeddings, under one contract."""
