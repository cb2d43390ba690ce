"""Training: the Mask2Former loss, data sets, augmentation and the loop behind `m2f train`."""
