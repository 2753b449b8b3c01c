"""Page tables as text and as rows: a summary, walks, lists, raw tables, a tree, and what checks find."""
