"""Tasks on tables of numbers."""
