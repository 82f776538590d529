"""Text: sequence classification with a Hugging Face encoder."""
