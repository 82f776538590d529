"""What is known about each kind of data: text, images and tables."""
