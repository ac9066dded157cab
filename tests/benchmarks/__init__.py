"""Figures, measured and never tested: machines are shared and noisy."""
