"""The two matching baselines: encoder, masks and matching put together."""
