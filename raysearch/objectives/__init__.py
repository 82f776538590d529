"""AANG's space of auxiliary objectives: data x transform x representation x output."""
