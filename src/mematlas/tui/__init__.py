"""The live screen of ``mematlas top``: pages of text that are views of a timeline, drawn by Textual.

Nothing here reads the kernel. A page (`mematlas.tui.page.Page`) draws rows of spans, each a text and its role, and
knows nothing of terminals; `mematlas.tui.stage` puts them on the screen.
"""
