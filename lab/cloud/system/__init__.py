"""What runs inside the cloud's namespaces, on Debian's own Python; the host side only starts it."""
