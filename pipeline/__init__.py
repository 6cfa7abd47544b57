"""Joins models to video at run time: one runtime for files, folders and streams."""
