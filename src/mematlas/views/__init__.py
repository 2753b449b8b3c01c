"""Results as something to look at. All text is made here."""
