-- ring: work has waited while the doorbell was silent.
-- KEYS: epoch clock counters events bell
-- ARGV: now
-- Reply: 1
-- Cost: O(1)
allow_at_maxmemory()
ring()
return 1
