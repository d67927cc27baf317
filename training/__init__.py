"""Models that consume builds and write the next round; installed as ``vila2data.training``."""

if __name__ != "vila2data.training":
    raise ImportError(
        "import vila2data.training, not training: the folder is installed under that name"
    )
