"""A search from launch to its end: studies, resuming, recording."""
