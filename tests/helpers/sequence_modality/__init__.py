"""A modality for tests: fixed-length numeric sequences. It shows all that a modality has to provide."""
