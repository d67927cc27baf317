"""Data sets of conversations that are made of many sources."""
