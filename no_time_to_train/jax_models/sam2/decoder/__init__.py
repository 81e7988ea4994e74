"""SAM2's mask decoder: what prompts share of an image is computed once, and a prompt's image is kept as few rows."""
