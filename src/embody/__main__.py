"""`python -m embody`, where the script `embody` is not on the path."""

from embody.cli import main

if __name__ == "__main__":
    main()
