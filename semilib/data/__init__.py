"""From files to the batch of a step: data sets, long-tailed splits, augmentation, counter-based random numbers."""
