"""What is told of a frame in one byte: its kind, how often it is mapped, and whether something begins there."""

from __future__ import annotations

KIND_MASK, STATE_SHIFT, START = 0x1F, 5, 0x80
NOT_MAPPED, MAPPED_ONCE, MAPPED_MORE, STATE_UNKNOWN = range(4)
