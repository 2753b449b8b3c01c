"""Workloads with a known truth, and lessons on them."""
