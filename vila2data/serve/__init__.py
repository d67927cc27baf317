"""Starts the servers that engine ``openai`` asks, and keeps them up."""
