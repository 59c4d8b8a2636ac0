"""Bulk translation: a large input divided among processes, by torchrun, a scheduler or Ray, with a manifest."""
