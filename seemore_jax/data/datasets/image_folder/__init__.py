"""Training sets from folders of photographs."""
