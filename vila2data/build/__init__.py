"""A version on disk: written whole, described, verified, never changed."""
