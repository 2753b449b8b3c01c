"""What the kernel's files mean together."""
