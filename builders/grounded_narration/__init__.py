"""Builder of ``grounded-narration``: GRIT filtered into short and long grounded captions."""
