"""``python -m mematlas``."""

from mematlas.cli import console

console()
