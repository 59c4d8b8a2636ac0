"""What is known of the images of a data set: probing, the manifest, the check, pixel formats, quarantine."""
