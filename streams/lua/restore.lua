-- restore: one batch of what an archive knows comes back, if the rebuild stands where the caller thinks.
-- KEYS: epoch clock counters events bell unique dead delayed bodies fired queued seen_even seen_odd accepted control streams
-- USES: clock seen ids envelope occurrence
-- ARGV: now, rebuild_id (and after a space its nonce), cursor as it is, cursor afterwards, kind, then
--       tasks: MessagePack, for each [task_id, place (a stream after its tag | delayed | dead | queued), fields (flat), due, schedule, unique, seen, old entry ID]
--       fired: for each schedule, row
--       seen:  task IDs
--       unique: for each unique key, task_id
--       free:   for each unique key, task_id that is nowhere
--       facts: add | max, 1 if paused, then counter, number, …
-- Reply: ok | moved (nothing done: it stands elsewhere, or does not run); cursor, restored, skipped (accepted meanwhile, or there), state
-- Cost: O(rows), 10 to 25 µs a task: callers send 200 and 256 KiB at most
-- A full Redis refuses it whole: every write before the first of a row may grow memory too.
local from, to, kind = ARGV[3], ARGV[4], ARGV[5]
local FIRST = 6
local MOST_FIELDS = 2000

local known = redis.call('HMGET', K.epoch, 'rebuild', 'cursor', 'nonce')
local ours = known[1] and (ARGV[2] == known[1] or ARGV[2] == known[1] .. ' ' .. (known[3] or ''))
if state ~= 'rebuilding' or not ours or known[2] ~= from then
  return { 'moved', ours and known[2] or '', 0, 0, state }
end

local PLACES = { delayed = true, dead = true, queued = true }
for i, name in ipairs(STREAM_NAMES) do
  PLACES[name] = i
end

local function is_good_task(task, place, due, schedule, old, f)
  if not PLACES[place] or #f == 0 or #f % 2 == 1 or not is_count(due) or not string.find(old, '^[%d-]*$') then
    return false
  end
  if place == 'dead' then
    return true
  end
  return f[2] == task and is_well_formed(f) and (place ~= 'queued' or string.find(schedule, '^[%w._-]+$') ~= nil)
end

local READ, DO = {}, {}

-- Arguments of their own would cost client and server more than all the rest of it.
function READ.tasks()
  local rows = ARGV[FIRST] and cmsgpack.unpack(ARGV[FIRST]) or {}
  for i, r in ipairs(rows) do
    local due = string.format('%.0f', r[4])
    if #r[3] > MOST_FIELDS or not is_good_task(r[1], r[2], due, r[5], r[8], r[3]) then
      return nil, i
    end
    rows[i] = { task = r[1], place = r[2], due = due, schedule = r[5], unique = r[6], seen = r[7], old = r[8], fields = r[3] }
  end
  return rows
end

function READ.fired()
  local rows = {}
  for i = FIRST, #ARGV, 2 do
    local row = string.find(ARGV[i], '^[%w._-]+$') and fired_row(ARGV[i + 1] or '')
    if not row then
      return nil, #rows + 1
    end
    rows[#rows + 1] = { ARGV[i], row }
  end
  return rows
end

function READ.seen()
  return { unpack(ARGV, FIRST, math.min(#ARGV, FIRST + 5000)) }
end

function READ.unique()
  return { unpack(ARGV, FIRST, math.min(#ARGV, FIRST + 5000)) }
end

READ.free = READ.unique

function READ.facts()
  local counters = {}
  for i = FIRST + 2, #ARGV, 2 do
    if ARGV[i] == SENTINEL or not is_count(ARGV[i + 1] or '') then
      return nil, #counters + 1
    end
    counters[#counters + 1] = { ARGV[i], tonumber(ARGV[i + 1]) }
  end
  return counters
end

local function check_types()
  for _, key in ipairs({ K.unique, K.bodies, K.fired, K.queued, K.counters, K.control }) do
    redis.call('HLEN', key)
  end
  for _, key in ipairs({ K.dead, K.events, unpack(K.streams) }) do
    redis.call('XLEN', key)
  end
  for _, key in ipairs({ K.seen_even, K.seen_odd, K.accepted }) do
    redis.call('SISMEMBER', key, '')
  end
  redis.call('ZCARD', K.delayed)
end

local function counts_of(f)
  local deliveries, handbacks = '0', '0'
  for i = 9, #f - 2, 2 do
    if f[i] == 'deliveries' then
      deliveries = f[i + 1]
    elseif f[i] == 'handbacks' then
      handbacks = f[i + 1]
    end
  end
  return is_count(deliveries) and deliveries or '0', is_count(handbacks) and handbacks or '0'
end

-- Returns the ID of the entry, empty where there is none; nil when something stands there already.
local function put(row)
  local place = PLACES[row.place]
  if row.place == 'delayed' then
    -- An envelope without an instant is what is left of one.
    if redis.call('HEXISTS', K.bodies, row.task) == 1 and redis.call('ZSCORE', K.delayed, row.task) then
      return nil
    end
    redis.call('ZADD', K.delayed, row.due, row.task)
    redis.call('HSET', K.bodies, row.task, cjson.encode(row.fields))
    return ''
  end
  if row.place == 'queued' then
    return redis.call('HSETNX', K.queued, row.schedule, cjson.encode(row.fields)) == 1 and '' or nil
  end
  return redis.call('XADD', row.place == 'dead' and K.dead or K.streams[place], '*', unpack(row.fields))
end

function DO.tasks(rows)
  local told, seen, seen_now = {}, {}, seen_sets()
  local any_accepted = redis.call('EXISTS', K.accepted) == 1
  for i = 1, #rows do
    local row = rows[i]
    -- A dead letter lies there beside a new task of its ID.
    local accepted = any_accepted and row.place ~= 'dead' and redis.call('SISMEMBER', K.accepted, row.task) == 1
    local id = not accepted and put(row)
    if id then
      local deliveries, handbacks = counts_of(row.fields)
      -- Only the task ID of a dead letter may need escaping.
      told[#told + 1] = (row.place == 'dead' and '[' .. cjson.encode(row.task) .. ',"' or '["' .. row.task .. '","')
        .. row.place .. '","' .. id .. '",' .. deliveries .. ',' .. handbacks .. ',"' .. row.old .. '",' .. row.due .. ']'
      if row.unique ~= '' then
        redis.call('HSETNX', K.unique, row.unique, row.task)
      end
      if row.seen then
        seen[#seen + 1] = row.task
      end
    end
  end
  for i = 1, #seen, 500 do
    redis.call('SADD', seen_now, unpack(seen, i, math.min(i + 499, #seen)))
  end
  if #told > 0 then
    event_of_rows('Restored', { rebuild = known[1] }, told)
  end
  return #told, #rows - #told
end

-- Of the same instant the archive's row counts: an older dataset may show a task as open that has ended since.
local function is_newer(a, b)
  return id_before(b.generation, a.generation) or (a.generation == b.generation and tonumber(a.last) > tonumber(b.last))
end

function DO.fired(rows)
  local restored = 0
  for _, pair in ipairs(rows) do
    local there = fired_row(redis.call('HGET', K.fired, pair[1]))
    if not there or not is_newer(there, pair[2]) then
      write_row(pair[1], pair[2])
      restored = restored + 1
    end
  end
  return restored, #rows - restored
end

function DO.seen(ids)
  local seen_now = seen_sets()
  for i = 1, #ids, 500 do
    redis.call('SADD', seen_now, unpack(ids, i, math.min(i + 499, #ids)))
  end
  return #ids, 0
end

function DO.unique(pairs_of)
  local restored = 0
  for i = 1, #pairs_of, 2 do
    if redis.call('HSETNX', K.unique, pairs_of[i], pairs_of[i + 1]) == 1
      or redis.call('HGET', K.unique, pairs_of[i]) == pairs_of[i + 1] then
      restored = restored + 1
    end
  end
  return restored, #pairs_of / 2 - restored
end

function DO.free(pairs_of)
  local freed = 0
  for i = 1, #pairs_of, 2 do
    local key, task = pairs_of[i], pairs_of[i + 1]
    if redis.call('HGET', K.unique, key) == task and redis.call('SISMEMBER', K.accepted, task) == 0 then
      freed = freed + redis.call('HDEL', K.unique, key)
    end
  end
  return freed, #pairs_of / 2 - freed
end

function DO.facts(counters)
  for _, pair in ipairs(counters) do
    local there = tonumber(redis.call('HGET', K.counters, pair[1])) or 0
    local total = ARGV[FIRST] == 'add' and there + pair[2] or math.max(there, pair[2])
    redis.call('HSET', K.counters, pair[1], string.format('%.0f', total))
  end
  if ARGV[FIRST + 1] == '1' and redis.call('HSETNX', K.control, 'paused', '1') == 1 then
    event('QueuePaused', {})
  end
  -- From here on they are not what began anew with the loss.
  redis.call('HSET', K.counters, SENTINEL, '.')
  redis.call('HSET', K.control, SENTINEL, '.')
  redis.call('HSET', K.epoch, 'lost', '')
  return #counters, 0
end

if not DO[kind] then
  return redis.error_reply('RECLAIMD_RESTORE no such kind of rows: ' .. kind)
end
local rows, bad = READ[kind]()
if not rows then
  return redis.error_reply('RECLAIMD_RESTORE bad value in row ' .. bad)
end
check_types()
tick()
local restored, skipped = DO[kind](rows)
write_events()
-- Last: half of a script that a killed server left behind is restored, and seen to be there when the rebuild goes on.
redis.call('HSET', K.epoch, 'cursor', to)
return { 'ok', to, restored, skipped, state }
