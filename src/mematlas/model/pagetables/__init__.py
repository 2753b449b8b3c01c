"""Page tables: their entries as data, the walk over them, and the pages of a VMA as they show them."""
