"""The training loop, and a module for each stage that gives it batches and a loss."""
