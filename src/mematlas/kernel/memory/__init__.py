"""The memory of the kernel itself: what reads it, where things lie in it, and a program that counts there."""
