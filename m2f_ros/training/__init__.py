"""Training: the Mask2Former loss, labelled folders, augmentation and the loop behind `m2f train`."""
