"""Evaluation of a run, its results, the report page, and the ablation of the paper's cascade."""
