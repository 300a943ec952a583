"""Builds the training set DF2K, which consists of DIV2K and Flickr2K."""
