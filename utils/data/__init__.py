"""Data: annotations, caches, clips and the synthetic data set."""
