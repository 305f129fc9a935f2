"""What tests share: real servers, a proxy that breaks connections on demand, and named waits."""
