"""Training one trial: train(plan) yields evaluations and weights, and knows no Ray."""
