"""What clients and the service say to each other: the fields of a request and what they may be, and errors."""
