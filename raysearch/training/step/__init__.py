"""One optimization step: forward and backward passes, gradients, surgery, and what the weighting observes."""
