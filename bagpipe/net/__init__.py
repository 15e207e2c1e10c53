"""Transport between roles: messages, framing, sockets. No pickle, every length bounded."""
