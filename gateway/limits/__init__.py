"""Who may take how much: of one connection, of a principal, of a tenant, of a client's address. Pure."""
