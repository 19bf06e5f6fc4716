"""From an image as it comes to one that is wrapped: the folder it gets, the one file, and the Dockerfile."""
