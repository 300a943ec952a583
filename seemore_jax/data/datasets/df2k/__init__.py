"""DF2K: DIV2K and Flickr2K."""
