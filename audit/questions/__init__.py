"""Questions beside the audit: whether captions fit, what is new, and where and why."""
