"""Backbones, heads, and the averaged network that is evaluated."""
