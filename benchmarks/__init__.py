"""Measurements, as ratios in one run against a peer or a physical limit."""
