"""Fetching weights: downloads, folders that are whole or not there, and what can go wrong."""
