"""The virtual world: psedge's own programs on virtual time, network and disk."""
