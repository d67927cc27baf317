"""``scenes``: rendered 3D scenes with exact ground truth."""
