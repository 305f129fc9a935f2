"""What recovers: view, plan, execute; loops, HTTP and the command line."""
