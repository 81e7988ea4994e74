"""SAM2: the network, and a decoder for many prompts on one image."""
