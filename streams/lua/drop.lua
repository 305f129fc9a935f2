-- drop: entries that an older dataset shows again, and that must not run: the archive knows how they ended, or a newer state of them.
-- KEYS: epoch clock counters events bell unique dead delayed bodies fired queued streams
-- USES: ids envelope occurrence move
-- ARGV: now, rebuild_id (and after a space its nonce), cursor as it is (* for any), then for each place (a stream after its tag | delayed | dead | queued), entry ID or empty, task_id, schedule, unique,
--       settled | purged | buried | superseded
-- Reply: ok | moved (nothing done: this rebuild does not run, or stands elsewhere); dropped, state, cursor
-- Cost: O(rows), 10 to 20 µs each: callers send 200 at most
local WIDTH = 6
local WHY = { settled = true, purged = true, buried = true, superseded = true }

-- Who is late must not remove by its name what has been restored since.
local known = redis.call('HMGET', K.epoch, 'rebuild', 'cursor', 'nonce')
local ours = known[1] and (ARGV[2] == known[1] or ARGV[2] == known[1] .. ' ' .. (known[3] or ''))
if state ~= 'rebuilding' or not ours or (ARGV[3] ~= '*' and known[2] ~= ARGV[3]) then
  return { 'moved', 0, state, ours and known[2] or '' }
end

local PLACES = { delayed = true, dead = true, queued = true }
for i, name in ipairs(STREAM_NAMES) do
  PLACES[name] = i
end

local rows = {}
for i = 4, #ARGV, WIDTH do
  local row = { unpack(ARGV, i, i + WIDTH - 1) }
  local in_stream = row[1] == 'dead' or type(PLACES[row[1]]) == 'number'
  if #row < WIDTH or not PLACES[row[1]] or not WHY[row[6]] or (in_stream and not string.find(row[2], '^%d+%-%d+$')) then
    return redis.error_reply('RECLAIMD_RESTORE bad value in row ' .. (i - 4) / WIDTH + 1)
  end
  rows[#rows + 1] = row
end

for _, key in ipairs({ K.unique, K.bodies, K.fired, K.queued, K.counters }) do
  redis.call('HLEN', key)
end
for _, key in ipairs({ K.dead, K.events, unpack(K.streams) }) do
  redis.call('XLEN', key)
end
redis.call('ZCARD', K.delayed)

local function remove(place, id, task, schedule)
  if place == 'delayed' then
    redis.call('HDEL', K.bodies, task)
    return redis.call('ZREM', K.delayed, task) == 1
  end
  if place == 'queued' then
    local kept = redis.call('HGET', K.queued, schedule)
    local e = kept and stored_envelope(kept)
    return e ~= nil and e ~= false and e.task == task and redis.call('HDEL', K.queued, schedule) == 1
  end
  if place == 'dead' then
    return redis.call('XDEL', K.dead, id) == 1
  end
  local stream = K.streams[PLACES[place]]
  redis.call('XACK', stream, GROUP, id)
  return redis.call('XDEL', stream, id) == 1
end

local told = {}

local function drop(place, id, task, schedule, unique, why)
  if not remove(place, id, task, schedule) then
    return
  end
  told[#told + 1] = cjson.encode({ task, place, id, why })
  if place ~= 'dead' and why ~= 'superseded' then
    release_unique(unique, task)
    close(schedule, task)
  end
end

allow_at_maxmemory()
-- What waits for a task that has ended goes to its lane with it; so what must not run leaves the waiting first.
for _, row in ipairs(rows) do
  if row[1] == 'queued' then
    drop(unpack(row))
  end
end
for _, row in ipairs(rows) do
  if row[1] ~= 'queued' then
    drop(unpack(row))
  end
end
if #told > 0 then
  event_of_rows('Dropped', { rebuild = known[1] }, told)
end
write_events()
return { 'ok', #told, state, known[2] }
