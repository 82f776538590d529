"""The primitives of an objective, one function each: data, transform, representation, output (AANG, section 3)."""
