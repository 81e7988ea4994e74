"""The models that the project ships for a first look: how they are trained and what they reach."""
