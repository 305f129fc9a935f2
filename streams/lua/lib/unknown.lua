-- Consumers without a worker row: somebody read under a name that never joined, or a row was lost. Nobody renews for them.
local function fence_unknown(worker)
  local row = row_of(worker)
  if row and row.state ~= 'gone' then
    -- The leases may be lost and the rows not: nobody would ever find this one dead.
    if not redis.call('ZSCORE', K.leases, worker) then
      redis.call('ZADD', K.leases, row.state == 'live' and string.format('%.0f', lease_now + row.term) or 0, worker)
    end
    return
  end
  fence(worker, { token = row and row.token or '0-unknown', term = '0', evidence = row and row.evidence or '{}' }, 'unknown')
end

local function fence_all_unknown()
  for _, stream in ipairs(K.streams) do
    local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, GROUP)
    for _, c in ipairs(consumers.err and {} or consumers) do
      if c[4] > 0 then
        fence_unknown(c[2])
      end
    end
  end
end

local function has_pending(worker)
  for _, stream in ipairs(K.streams) do
    local pending = redis.pcall('XPENDING', stream, GROUP, '-', '+', 1, worker)
    if not pending.err and #pending > 0 then
      return true
    end
  end
  return false
end
