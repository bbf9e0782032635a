"""Models: which one is loaded, how texts and pixels become embeddings."""
