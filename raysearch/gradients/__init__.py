"""Gradients looked at one by one, at the price of looking at their sum: Jacobians, Gramians, subspaces."""
