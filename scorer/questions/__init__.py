"""What the moments answer beside scores: wrong labels, pairs, drift, and where in an image."""
