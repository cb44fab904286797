"""Every claim about the method, the command that decides it, and the page with the answers."""
