"""Images in memory or on disk, drawn or read, cut into batches whose order and augmentation depend on keys alone."""
