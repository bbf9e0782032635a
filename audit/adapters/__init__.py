"""Other libraries' ways of holding what bliss-audit knows; each needs its library installed."""
