"""A declared search: read, checked, and resolved into trial plans."""
