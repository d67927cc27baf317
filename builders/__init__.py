"""The published data sets, one module each; installed as ``vila2data.builders``."""

if __name__ != "vila2data.builders":
    raise ImportError(
        "import vila2data.builders, not builders: the folder is installed under that name"
    )
