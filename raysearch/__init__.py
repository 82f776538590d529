"""raysearch: search objective spaces for auxiliary learning, on Ray."""
