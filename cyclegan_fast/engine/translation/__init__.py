"""Files translated into files: images, large TIFFs, videos."""
