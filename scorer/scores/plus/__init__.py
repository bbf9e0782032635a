"""bliss+, a score made of several pieces of evidence."""
