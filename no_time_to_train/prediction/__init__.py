"""Folders of images in, instances out: `ntt predict`."""
