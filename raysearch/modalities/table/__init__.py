"""Tables of numbers: regression and classification with a multilayer perceptron."""
