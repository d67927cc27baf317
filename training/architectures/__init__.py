"""Models of images and text, put together of a vision tower, a projector and a language model."""
