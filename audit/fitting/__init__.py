"""The reference of an audit: fitted once, found again, and fitted without its strays."""
