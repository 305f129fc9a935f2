-- tail: what an archive has not seen yet, if this is still the partition that it knows; else only what shows that it is not.
-- KEYS: epoch clock counters events bell dead delayed bodies fired queued unique control streams
-- USES: sentinel
-- ARGV: now, archive_id, epoch_id, committed mark, next mark (empty: write none), most entries, most bytes, positions: :events, :dead, the seven streams,
--       fence: who took over has a higher one, and from its first mark on nobody with a lower one writes any
-- Reply: ok facts events drained dead streams more counters paused marked gap first | no facts
--        facts: epoch there (0 | 1), any key with tasks or rows there, state, id, archive_id, mark, mark_before, rebuild, cursor, keys without sentinel
--        streams are looked at only when the events are drained: what they show is then neither older nor newer than the events
--        gap: the event at the position is gone, so events behind it may be
--        first: ID of the first dead letter, or empty: those before it are gone, which retention tells by no event
-- Cost: O(entries read), 5 to 10 µs each
local archive_id, epoch_id, mark, next_mark = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local entries_left, bytes_left = tonumber(ARGV[6]), tonumber(ARGV[7])
local EVENTS, DEAD, FIRST_STREAM = 8, 9, 9
local fence = tonumber(ARGV[17])
local LARGEST_PAGE = 250

local known = redis.call('HMGET', K.epoch, 'id', 'archive_id', 'mark', 'mark_before', 'rebuild', 'cursor')
for i = 1, 6 do
  known[i] = known[i] or ''
end
local missing = missing_sentinels()
-- Not those that a daemon or a fenced worker writes to before anybody has begun an epoch.
local keys = redis.call('EXISTS', K.dead, K.delayed, K.bodies, K.fired, K.queued, K.unique, unpack(K.streams)) > 0
local facts = { state == 'absent' and 0 or 1, keys and 1 or 0, state }
for i = 1, 6 do
  facts[#facts + 1] = known[i]
end
facts[#facts + 1] = missing

if state ~= 'ok' or known[1] ~= epoch_id or known[2] ~= archive_id or #missing > 0 or mark == ''
  or (known[3] ~= mark and known[4] ~= mark)
  or (next_mark ~= '' and fence < (tonumber(redis.call('HGET', K.epoch, 'fence')) or 0)) then
  return { 'no', facts }
end

local function size_of(entry)
  local size = 0
  local f = entry[2]
  for i = 2, #f, 2 do
    size = size + #f[i] + 16
  end
  return size
end

-- Entries behind `after`, and whether these were all. Pages are small as long as entries are big.
local function read_on(stream, after)
  local found, page_size = {}, 2
  while entries_left > 0 and bytes_left > 0 do
    local asked = math.min(page_size, entries_left)
    local page = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', asked)
    local bytes = 0
    for i = 1, #page do
      found[#found + 1] = page[i]
      bytes = bytes + size_of(page[i])
    end
    entries_left, bytes_left = entries_left - #page, bytes_left - bytes
    if #page < asked then
      return found, true
    end
    after = page[#page][1]
    page_size = math.max(1, math.min(page_size * 8, LARGEST_PAGE, math.floor(bytes_left / (bytes / #page + 1))))
  end
  return found, false
end

local gap = ARGV[EVENTS] ~= '0-0' and #redis.call('XRANGE', K.events, ARGV[EVENTS], ARGV[EVENTS]) == 0
local events, drained = read_on(K.events, ARGV[EVENTS])
local read = #events
local dead, streams, more, counters, paused, first_letter = {}, {}, false, {}, false, ''
if drained then
  local all
  dead, all = read_on(K.dead, ARGV[DEAD])
  read, more = read + #dead, not all
  for i = 1, #K.streams do
    streams[i], all = read_on(K.streams[i], ARGV[FIRST_STREAM + i])
    read, more = read + #streams[i], more or not all
  end
  local first = redis.call('XRANGE', K.dead, '-', '+', 'COUNT', 1)
  first_letter = first[1] and first[1][1] or ''
  local totals = redis.call('HGETALL', K.counters)
  for i = 1, #totals, 2 do
    if totals[i] ~= SENTINEL then
      counters[#counters + 1] = totals[i]
      counters[#counters + 1] = totals[i + 1]
    end
  end
  paused = redis.call('HGET', K.control, 'paused') == '1'
end
local marked = read > 0 and next_mark ~= ''
if marked then
  allow_at_maxmemory()
  redis.call('HSET', K.epoch, 'mark', next_mark, 'mark_before', mark, 'fence', ARGV[17])
end

local function flag(yes)
  return yes and 1 or 0
end

return { 'ok', facts, events, flag(drained), dead, streams, flag(more), counters, flag(paused), flag(marked), flag(gap),
  first_letter }
