"""What this kernel and our rights offer, found by doing it, and what to type where something is missing."""
