"""Everything that trains: the demo's own small CLIP model, and what is trained over frozen ones."""
