"""What is seen: the metrics as data, and how views and events become them."""
