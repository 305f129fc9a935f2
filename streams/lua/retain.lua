-- retain: keep dead letters and events within their limits. Only the daemon's settings decide what is old.
-- KEYS: epoch clock counters events bell dead
-- ARGV: now, dead letters older than this many ms go, most dead letters kept, events older than this many ms go, most events kept
-- Reply: dead letters dropped, event entries dropped. Events are kept within about 128 MiB besides, whatever their number: an
-- entry of a busy worker holds hundreds of tasks.
-- Cost: O(dropped), at most 10,000 of each by age and as many by number a call
allow_at_maxmemory()

local function trim(stream, age, most)
  local oldest = string.format('%.0f-0', math.max(0, now - age))
  return redis.call('XTRIM', stream, 'MINID', '~', oldest, 'LIMIT', 10000)
    + redis.call('XTRIM', stream, 'MAXLEN', '~', most, 'LIMIT', 10000)
end

local EVENT_BYTES = 134217728

local function most_events()
  local length = redis.call('XLEN', K.events)
  local bytes = length > 0 and redis.call('MEMORY', 'USAGE', K.events, 'SAMPLES', 5) or 0
  if bytes <= EVENT_BYTES then
    return ARGV[5]
  end
  return math.min(tonumber(ARGV[5]), math.floor(length * EVENT_BYTES / bytes))
end

local letters = trim(K.dead, tonumber(ARGV[2]), ARGV[3])
count('dead_dropped', letters)
return { letters, trim(K.events, tonumber(ARGV[4]), most_events()) }
