"""What is wrong with a data set: images that are there twice."""
