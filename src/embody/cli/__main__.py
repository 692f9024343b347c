"""`python -m embody.cli`, where the script `embody` is not installed."""

from embody.cli import main

if __name__ == "__main__":
    main()
