"""embody against the PyPI package `dreamer4` on equal shapes, and both against what the machine can do."""
