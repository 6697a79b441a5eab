"""Length and learning rate of a training, its batches and its cache of features."""
