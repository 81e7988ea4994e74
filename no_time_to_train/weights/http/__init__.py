"""Requests that are bounded, retried and resumed, and what their errors mean."""
