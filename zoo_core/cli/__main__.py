"""``python -m zoo_core.cli``: the same as ``zoo``."""

from zoo_core.cli.main import main

if __name__ == "__main__":
    main()
