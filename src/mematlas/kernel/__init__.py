"""What the kernel offers: one module per kernel file or system call; bytes in, records or arrays out."""
