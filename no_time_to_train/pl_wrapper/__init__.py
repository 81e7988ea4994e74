"""Thin LightningModules."""
