"""Data made with a policy: its own answers, sorted by verifiers."""
