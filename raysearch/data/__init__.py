"""Prepared splits and row readers, independent of the modality."""
