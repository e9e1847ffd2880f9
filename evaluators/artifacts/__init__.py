"""Artifact formats: a compressed network as the file that ships."""
