"""Unit rows in memory or on disk, and exact search over them."""
