-- beat: renew a lease, nothing else.
-- KEYS: epoch clock counters events workers leases
-- USES: clock worker
-- ARGV: now, worker, token
-- Reply: ok lease_now | fenced
-- Cost: O(log workers)
allow_at_maxmemory()
tick()
local current, row = is_current(ARGV[2], ARGV[3])
if not current then
  return { 'fenced' }
end
renew(ARGV[2], row)
return { 'ok', lease_now }
