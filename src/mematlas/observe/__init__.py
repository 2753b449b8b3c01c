"""The front doors of the library: one process, its page tables, a capture. Looking changes nothing in the target."""
