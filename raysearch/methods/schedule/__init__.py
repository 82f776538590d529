"""Schedules: which tasks train when."""
