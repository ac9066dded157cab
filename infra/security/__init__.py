"""How the brokers are secured: the page for administrators, with tables made from ``schemas.roles``."""
