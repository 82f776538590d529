"""Exporting the best trial: model, card, test score."""
