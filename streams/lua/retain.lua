-- retain: keep dead letters and events within their limits. Only the daemon's settings decide what is old.
-- KEYS: epoch clock counters events bell dead
-- USES: ids
-- ARGV: now, dead letters older than this many ms go, most dead letters kept, events older than this many ms go, most events kept,
--       entry ID up to which events are archived (none newer goes, nor that one; empty: there is no archive)
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

-- By number too, nothing goes that is not archived: MAXLEN knows no such bound, MINID with a limit does the same.
local function trim_archived(position)
  local oldest = string.format('%.0f-0', math.max(0, now - ARGV[4]))
  local dropped = redis.call('XTRIM', K.events, 'MINID', '~', id_before(oldest, position) and oldest or position, 'LIMIT', 10000)
  local surplus = math.min(10000, redis.call('XLEN', K.events) - most_events())
  if surplus > 0 then
    dropped = dropped + redis.call('XTRIM', K.events, 'MINID', '~', position, 'LIMIT', surplus)
  end
  return dropped
end

local letters = trim(K.dead, tonumber(ARGV[2]), ARGV[3])
count('dead_dropped', letters)
if (ARGV[6] or '') ~= '' then
  return { letters, trim_archived(ARGV[6]) }
end
return { letters, trim(K.events, tonumber(ARGV[4]), most_events()) }
