"""What a checkpoint sees: captions and answers held against the ground truth of rendered scenes."""
