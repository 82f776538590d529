"""A declared search: it is read, validated, and resolved into trial plans."""
