"""What a run keeps beside its weights and results: what was made from what, its config, its times."""
