"""Weightings: how much each task counts in a step."""
