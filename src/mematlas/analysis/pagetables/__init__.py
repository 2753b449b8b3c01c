"""Questions about page tables that were walked."""
