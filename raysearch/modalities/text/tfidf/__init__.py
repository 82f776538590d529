"""A bag of words: TF-IDF features and a linear classifier."""
