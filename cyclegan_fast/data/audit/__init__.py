"""The audit of a data set before training: findings, near-duplicates, the contact sheet."""
