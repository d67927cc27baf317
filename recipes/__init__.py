"""Recipes that come with the package, one YAML per build; installed as ``vila2data.recipes``."""
