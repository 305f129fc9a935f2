-- Lease time: wall time elapsed since the last script, clamped, so that a clock step or a frozen server expires nobody at once.
local DEFAULT_CAP = 5000
local lease_now

local function tick()
  local fields = redis.call('HMGET', K.clock, 'wall', 'lease', 'cap')
  local wall, lease, cap = tonumber(fields[1]), tonumber(fields[2]), tonumber(fields[3]) or DEFAULT_CAP
  if not wall or not lease then
    wall, lease = now, math.max(now, lease or 0)
    fields[1] = nil
  end
  lease_now = lease + math.min(math.max(now - wall, 0), cap)
  if now ~= wall or not fields[1] then
    redis.call('HSET', K.clock, 'wall', now_text, 'lease', string.format('%.0f', lease_now))
  end
  return cap
end

-- How many live workers have each lease length; the cap is a third of the shortest one.
local function count_term(term, delta)
  if redis.call('HINCRBY', K.clock, 'term:' .. term, delta) <= 0 then
    redis.call('HDEL', K.clock, 'term:' .. term)
  end
end

local function write_cap()
  local shortest
  local fields = redis.call('HGETALL', K.clock)
  for i = 1, #fields, 2 do
    local ms = tonumber(string.match(fields[i], '^term:(%d+)$'))
    if ms and (not shortest or ms < shortest) then
      shortest = ms
    end
  end
  if shortest then
    redis.call('HSET', K.clock, 'cap', math.floor(shortest / 3))
  else
    redis.call('HDEL', K.clock, 'cap')
  end
end
