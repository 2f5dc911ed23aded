"""Draws what the program has written. It decides nothing: which points stand on a frontier comes
from `helix-bench frontier --format json`."""
