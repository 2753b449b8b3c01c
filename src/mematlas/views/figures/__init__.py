"""Pictures as files: what is drawn, and how it is written as SVG and as PNG."""
