"""Rows that data sets have in common: the same image, a copy of it, the same text."""
