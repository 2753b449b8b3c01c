"""Questions answered: pure functions over what was read; no input, no output, no text."""
