"""Weight files as bytes: safetensors, pickled state dicts, Equinox files."""
