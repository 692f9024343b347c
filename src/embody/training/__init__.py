"""One training loop, and a small file per stage that gives it a loss."""
