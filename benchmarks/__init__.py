"""Benchmarks: ratios against a peer, interleaved in one run."""
