"""Any folders of photographs."""
