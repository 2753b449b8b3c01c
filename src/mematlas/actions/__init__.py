"""Influence: page out, make cold, bring back, collapse. Planned first, then done, and measured page by page."""
