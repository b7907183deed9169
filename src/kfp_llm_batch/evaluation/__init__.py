"""Scores of completions, their statistics, the comparison with a baseline, and the gate."""
