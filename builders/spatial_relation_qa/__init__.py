"""``spatial-relation-qa``: conversations about where things are, from annotated 3D boxes."""
