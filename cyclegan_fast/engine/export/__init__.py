"""A trained generator as a file that travels, compared with torch before it does."""
