"""What networks of all modalities share."""
