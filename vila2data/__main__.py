"""``python -m vila2data``: the same as the command ``vila2data``."""

from .cli import main

if __name__ == "__main__":
    main()
