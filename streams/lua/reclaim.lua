-- reclaim: fence every worker whose lease ended, then move their entries in the order of docs/protocol.md "Order of a reclaim pass".
-- KEYS: epoch clock counters events bell unique dead workers leases streams
-- USES: clock worker move drain
-- ARGV: now, limit, 1 to look for consumers without a worker row too
-- Reply: moved, more (0 | 1), workers of the pass
-- Cost: O(entries moved + workers dead); XINFO CONSUMERS of seven groups when it looks for unknown ones
local FENCE_A_CALL = 500

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
  return #expired == FENCE_A_CALL
end

-- Somebody read with a consumer name that never joined, or a row was lost: nobody renews for it.
local function fence_unknown()
  for _, stream in ipairs(K.streams) do
    local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, GROUP)
    for _, c in ipairs(consumers.err and {} or consumers) do
      local row = row_of(c[2])
      if c[4] > 0 and (not row or row.state == 'gone') then
        local unknown = { token = '0-unknown', term = '0', evidence = '{}' }
        fence(c[2], row and { token = row.token, term = '0', evidence = row.evidence } or unknown, 'unknown')
      end
    end
  end
end

local function pass_members()
  local members = redis.call('ZRANGEBYSCORE', K.leases, -1, -1)
  if #members == 0 then
    members = redis.call('ZRANGEBYSCORE', K.leases, 0, 0)
    for _, worker in ipairs(members) do
      redis.call('ZADD', K.leases, -1, worker)
    end
  end
  return members
end

allow_at_maxmemory()
tick()
local more = fence_expired()
if ARGV[3] == '1' then
  fence_unknown()
end
local moved, dead = 0, {}
if not more then
  for _, worker in ipairs(pass_members()) do
    local row = row_of(worker)
    if row and row.state == 'fenced' then
      dead[#dead + 1] = draining(worker, row)
    else
      redis.call('ZREM', K.leases, worker)
    end
  end
  if #dead > 0 then
    moved, more = drain(dead, tonumber(ARGV[2]))
    more = more or redis.call('ZCOUNT', K.leases, -1, 0) > 0
  end
end
write_events()
return { moved, more and 1 or 0, #dead }
