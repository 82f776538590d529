"""Image tasks."""
