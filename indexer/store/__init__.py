"""A caption index on disk: its folder, manifest, parts, removed rows, and sharing it."""
