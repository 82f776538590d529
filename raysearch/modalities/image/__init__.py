"""Images: classification with a convolutional network, or any Hugging Face or timm classifier."""
