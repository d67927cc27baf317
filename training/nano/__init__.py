"""The nano setting: a vision tower and a language model small enough for a CPU."""
