"""A virtual network: hosts, their links, and TCP over them, as one more transport."""
