-- view: advance lease time and read one partition's numbers.
-- KEYS: epoch clock counters events bell workers leases control delayed dead seen_even seen_odd streams
-- USES: clock seen
-- ARGV: now
-- Reply: JSON of daemon.view.PartitionView without queue and partition
-- Cost: O(streams); reads the oldest waiting entry of each
local v = { now_ms = now, state = state, waiting = {}, pending = {}, counters = {}, lease_now = 0, cap_ms = 0, epoch_id = '' }
if state ~= 'absent' then
  allow_at_maxmemory()
  v.cap_ms = tick()
  v.lease_now = lease_now
  seen_sets()
  v.epoch_id = redis.call('HGET', K.epoch, 'id')
end

local function ms_of(id)
  return tonumber(string.match(id, '^(%d+)'))
end

local function older(current, ms)
  return math.max(current or 0, now - ms, 0)
end

local function group_of(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, g in ipairs(groups.err and {} or groups) do
    if g[2] == GROUP then
      return g[6], g[8]
    end
  end
  return 0, '0-0'
end

for i, stream in ipairs(K.streams) do
  local pending, last = group_of(stream)
  local waiting = math.max(0, redis.call('XLEN', stream) - pending)
  v.waiting[STREAM_NAMES[i]], v.pending[STREAM_NAMES[i]] = waiting, pending
  if waiting > 0 then
    local first = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)
    v.oldest_waiting_ms = #first > 0 and older(v.oldest_waiting_ms, ms_of(first[1][1])) or v.oldest_waiting_ms
  end
  if pending > 0 then
    local first = redis.call('XPENDING', stream, GROUP, '-', '+', 1)
    v.oldest_pending_ms = #first > 0 and older(v.oldest_pending_ms, ms_of(first[1][1])) or v.oldest_pending_ms
  end
end

local next_lease = redis.call('ZRANGEBYSCORE', K.leases, '(' .. string.format('%.0f', v.lease_now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
v.next_lease_end = tonumber(next_lease[2])
v.live = redis.call('ZCOUNT', K.leases, '(' .. string.format('%.0f', v.lease_now), '+inf')
v.fenced = redis.call('ZCOUNT', K.leases, -1, 0)
v.expired = redis.call('ZCARD', K.leases) - v.live - v.fenced
v.gone = redis.call('HLEN', K.workers) - redis.call('ZCARD', K.leases)
local next_due = redis.call('ZRANGEBYSCORE', K.delayed, '-inf', '(+inf', 'WITHSCORES', 'LIMIT', 0, 1)
v.delayed, v.next_due = redis.call('ZCOUNT', K.delayed, '-inf', '(+inf'), tonumber(next_due[2])
v.overdue = redis.call('ZCOUNT', K.delayed, '-inf', now_text)
v.dead, v.events = redis.call('XLEN', K.dead), redis.call('XLEN', K.events)
v.bell = redis.call('LLEN', K.bell) > 0
v.paused = redis.call('HGET', K.control, 'paused') == '1'
local counters = redis.call('HGETALL', K.counters)
for i = 1, #counters, 2 do
  if counters[i] ~= SENTINEL then
    v.counters[counters[i]] = tonumber(counters[i + 1])
  end
end
return cjson.encode(v)
