"""Time: moments of a process or a group, one after the other, and what changed between them."""
