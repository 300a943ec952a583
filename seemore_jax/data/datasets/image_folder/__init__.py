"""Builds training sets from folders of photographs."""
