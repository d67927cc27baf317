"""Conversations of a build as the files that other trainers read."""
