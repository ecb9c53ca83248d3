"""Benchmarks as their published numbers were made, with error bars, in and out of training."""
