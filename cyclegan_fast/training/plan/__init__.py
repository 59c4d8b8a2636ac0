"""`dataset plan`: proposes the settings of a training from the images and the device, and says why."""
