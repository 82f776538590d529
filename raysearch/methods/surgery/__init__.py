"""Surgeries: how gradients are changed before they are added."""
