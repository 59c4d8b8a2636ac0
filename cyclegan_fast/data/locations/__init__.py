"""Where the images of a data set are: folders, lists of files, tar shards."""
