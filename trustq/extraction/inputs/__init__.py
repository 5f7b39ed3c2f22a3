"""Images on their way into a network: decoding, augmentation, corruptions, sampling."""
