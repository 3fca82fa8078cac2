"""Images: where they come from, how they become pixels, and how pixels become batches."""
