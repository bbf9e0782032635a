"""Building a caption index from corpora or from embeddings, and adding to one."""
