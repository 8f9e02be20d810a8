"""A run on disk: begun, gone on with, mended, made again, exported from."""
