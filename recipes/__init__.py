"""Recipes: whole training programs, each read once from top to bottom."""
