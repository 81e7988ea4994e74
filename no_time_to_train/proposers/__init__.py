"""Images and prompts to masks."""
