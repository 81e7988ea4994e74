"""The embedded synthetic few-shot dataset, and scenes for training, drawn by the project itself."""
