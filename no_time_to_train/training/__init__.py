"""Training for Lightning: distillation, and the small models that the project ships."""
