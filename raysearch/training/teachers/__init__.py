"""Teachers: what guesses the end task's labels of unlabelled examples while a trial trains."""
