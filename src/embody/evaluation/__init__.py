"""What is measured when of a run, its results, the report, and the paper's cascade."""
