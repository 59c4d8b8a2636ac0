"""Images too large for a network at once: overlapping tiles, or exact strips."""
