-- reclaim: fence every worker whose lease ended, then move their entries in the order of docs/protocol.md "Order of a reclaim pass".
-- KEYS: epoch clock counters events bell unique dead workers leases turns fired queued streams
-- USES: clock worker ids envelope occurrence move drain pass unknown
-- ARGV: now, limit, 1 to look for consumers without a worker row too
-- Reply: moved, more (0 | 1), workers of the pass, state: neither ok nor absent forbids it
-- Cost: O(entries moved + workers dead); XINFO CONSUMERS of seven groups when it looks for unknown ones
local FENCE_A_CALL = 100

local function fence_expired()
  local expired = redis.call('ZRANGEBYSCORE', K.leases, '(0', lease_now, 'LIMIT', 0, FENCE_A_CALL)
  for _, worker in ipairs(expired) do
    local row = row_of(worker)
    if row and row.state == 'live' then
      fence(worker, row, 'lease_expired')
    else
      redis.call('ZADD', K.leases, 0, worker)
    end
  end
  if #expired > 0 then
    write_cap()
  end
  return #expired == FENCE_A_CALL
end

if frozen then
  return { 0, 0, 0, state }
end
allow_at_maxmemory()
tick()
local more = fence_expired()
if ARGV[3] == '1' then
  fence_all_unknown()
end
local moved, workers, _ = 0, 0
if not more then
  moved, _, workers = run_pass(tonumber(ARGV[2]))
  more = redis.call('ZCOUNT', K.leases, -1, 0) > 0
end
write_events()
return { moved, more and 1 or 0, workers, state }
