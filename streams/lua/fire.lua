-- fire: occurrences of schedules become tasks, or are skipped, each at most once and in the order of their instants.
-- KEYS: epoch clock counters events bell fired queued bodies seen_even seen_odd streams
-- USES: clock seen ids envelope occurrence
-- ARGV: now, id of the epoch if there is none (empty: refuse then; = and an archive_id: refuse what that archive does not have), server ms of the view that the plan stands on (empty: all rows are runs),
--       the rows, each a line of columns with bars between (arguments of their own would cost as much as all the rest),
--       then the body of each fire and run, in the order of their rows:
--       fire|schedule|generation|after|nominal|due|allow, skip, queue_one or wait|limit (0 none)|lane|max_deliveries
--       skip|schedule|generation|after|up to and with|how many (-1 unknown)|reason
--       run|schedule|request ID|lane|max_deliveries
-- Reply: ok now rows | state <state> | old. A row: status|generation|last|count|open|entry_id, status
--        fired | queued | skipped | open | finished | early | stale | duplicate | behind | unreadable
-- Cost: O(rows), 10 to 25 µs each with small bodies: callers send 200 at most
-- A full Redis refuses it whole: every write before the first XADD may grow memory too.
local OLDEST_VIEW_MS = 5000
local OVERLAPS = { allow = true, skip = true, queue_one = true, wait = true }
local seen_at = tonumber(ARGV[3])

-- Numbers are not longer than Lua can hold exactly.
local COLUMNS = {
  fire = '^([%w._-]+)|(%d+%-%d+)|(%d+)|([1-9]%d*)|(%d+)|([%l_]+)|(%d+)|(%l+)|([1-9]%d?%d?%d?)$',
  skip = '^([%w._-]+)|(%d+%-%d+)|(%d+)|([1-9]%d*)|(%-?%d+)|([%l_]+)$',
  run = '^([%w._-]+)|([%w._-]+)|(%l+)|([1-9]%d?%d?%d?)$',
}
local LONGEST = { 80, 40, 15, 15, 15, 40, 16 }

local function is_good(kind, row)
  if not row[1] then
    return false
  end
  for column = 1, #row < 7 and #row or 7 do
    if #row[column] > LONGEST[column] then
      return false
    end
  end
  if kind == 'run' then
    return LANES[row[3]]
  end
  return seen_at and (kind == 'skip' or (OVERLAPS[row[6]] and LANES[row[8]]))
end

-- All or nothing: neither a bad row nor a key of another type may be an error in the middle.
local kinds, plan = {}, {}
local bodies = 4
for kind, text in string.gmatch(ARGV[4], '([^|\n]*)|?([^\n]*)\n') do
  local row = COLUMNS[kind] and { string.match(text, COLUMNS[kind]) }
  local n = #plan + 1
  if not row or not is_good(kind, row) then
    return redis.error_reply('RECLAIMD_SCHEDULE bad value in row ' .. n)
  end
  if kind ~= 'skip' then
    bodies = bodies + 1
    row[#row + 1] = ARGV[bodies]
  end
  kinds[n], plan[n] = kind, row
end
if bodies ~= #ARGV then
  return redis.error_reply('RECLAIMD_SCHEDULE there is not one body for each task')
end
local archive_id = string.match(ARGV[2], '^=(.*)$')
if state ~= 'ok' and (state ~= 'absent' or ARGV[2] == '' or archive_id) then
  return { 'state', state }
end
if archive_id and archive_id ~= archived_by then
  return { 'state', archived_by == '' and 'unarchived' or 'foreign' }
end
-- Rows that are gone were fired: until the archive has them back, nothing may fire on what is left.
if archived_by ~= '' and redis.call('HEXISTS', K.fired, SENTINEL) == 0 then
  return { 'state', 'lost' }
end
-- One that was stopped for long knows nothing of what was removed meanwhile, whichever way the clock went since.
if seen_at and math.abs(now - seen_at) > OLDEST_VIEW_MS then
  return { 'old' }
end

local function read_rows()
  local names, known, rows = {}, {}, {}
  for i = 1, #plan do
    local schedule = plan[i][1]
    if kinds[i] ~= 'run' and not known[schedule] then
      known[schedule] = true
      names[#names + 1] = schedule
    end
  end
  for from = 1, #names, 500 do
    local to = math.min(from + 499, #names)
    local found = redis.call('HMGET', K.fired, unpack(names, from, to))
    for i = from, to do
      rows[names[i]] = fired_row(found[i - from + 1])
    end
  end
  return rows
end

local function check_types()
  redis.call('HLEN', K.fired)
  redis.call('HLEN', K.queued)
  redis.call('HLEN', K.counters)
  redis.call('XLEN', K.events)
  redis.call('LLEN', K.bell)
  for _, index in pairs(LANES) do
    redis.call('XLEN', K.streams[index])
  end
  redis.call('HEXISTS', K.bodies, '')
  redis.call('SISMEMBER', K.seen_even, '')
  redis.call('SISMEMBER', K.seen_odd, '')
end

check_types()
local rows = read_rows()
if state == 'absent' then
  begin_epoch(ARGV[2])
end
tick()
local seen_now, seen_before = seen_sets()
local waiting = false

-- Returns the status that refuses an instant, or nil, and the row as it would stand before it: that of a newer generation begins anew.
local function guard(schedule, generation, after, nominal, due)
  local row = rows[schedule]
  if not row then
    return 'unreadable', fired_row(false)
  end
  if generation ~= row.generation then
    if row.generation ~= NO_GENERATION and id_before(generation, row.generation) then
      return 'stale', row
    end
    row = { generation = generation, last = '0', count = '0', open = row.open }
  end
  local last = tonumber(row.last)
  if tonumber(nominal) <= last then
    return 'duplicate', row
  end
  if tonumber(after) ~= last then
    return 'behind', row
  end
  if tonumber(due) > now then
    return 'early', row
  end
  return nil, row
end

-- Returns the row as it is written.
local function advance(schedule, row, nominal, fired)
  row.last = nominal
  if fired > 0 then
    row.count = string.format('%.0f', row.count + fired)
  end
  rows[schedule] = row
  return write_row(schedule, row)
end

local function has_queued(schedule)
  return redis.call('HEXISTS', K.queued, schedule) == 1
end

local function add(task, schedule, lane, max, body)
  waiting = true
  return redis.call('XADD', K.streams[LANES[lane]], '*',
    'task', task, 'at', now_text, 'lane', lane, 'max', max, 'schedule', schedule, 'body', body)
end

local function keep(task, schedule, lane, max, body)
  local fields = { 'task', task, 'at', now_text, 'lane', lane, 'max', max, 'schedule', schedule, 'body', body }
  redis.call('HSET', K.queued, schedule, cjson.encode(fields))
end

-- Each returns the status, the row as text and the ID of the entry, if any.
local DO = {}

function DO.fire(schedule, generation, after, nominal, due, overlap, limit, lane, max, body)
  local refusal, row = guard(schedule, generation, after, nominal, due)
  if refusal then
    return refusal, row_text(row)
  end
  if limit ~= '0' and tonumber(row.count) >= tonumber(limit) then
    return 'finished', row_text(row)
  end
  local task = schedule .. ':' .. generation .. ':' .. nominal
  if row.open ~= '' and overlap ~= 'allow' then
    if overlap == 'wait' then
      return 'open', row_text(row)
    end
    if overlap == 'queue_one' and not has_queued(schedule) then
      keep(task, schedule, lane, max, body)
      tell('OccurrenceQueued', schedule, generation, string.format('%s,"%s",%.0f', nominal, task, now - due))
      return 'queued', advance(schedule, row, nominal, 1)
    end
    tell_skipped(schedule, generation, after, nominal, 1, 'overlap')
    return 'skipped', advance(schedule, row, nominal, 0)
  end
  local id = add(task, schedule, lane, max, body)
  -- What waits for the open one must see it end.
  if row.open == '' or not has_queued(schedule) then
    row.open = task
  end
  tell_fired(schedule, generation, nominal, task, id, now - due, 0)
  return 'fired', advance(schedule, row, nominal, 1), id
end

function DO.skip(schedule, generation, after, upto, n, reason)
  local refusal, row = guard(schedule, generation, after, upto, upto)
  if refusal then
    return refusal, row_text(row)
  end
  tell_skipped(schedule, generation, after, upto, n, reason)
  return 'skipped', advance(schedule, row, upto, 0)
end

function DO.run(schedule, request, lane, max, body)
  local task = schedule .. ':run:' .. request
  if redis.call('SISMEMBER', seen_before, task) == 1 or redis.call('SISMEMBER', seen_now, task) == 1
    or redis.call('HEXISTS', K.bodies, task) == 1 then
    return 'duplicate', row_text(fired_row(false))
  end
  local id = add(task, schedule, lane, max, body)
  redis.call('SADD', seen_now, task)
  tell_fired(schedule, 'run', now_text, task, id, 0, 0)
  return 'fired', row_text(fired_row(false)), id
end

local results = {}
for i = 1, #plan do
  local status, row, id = DO[kinds[i]](unpack(plan[i]))
  results[i] = status .. '|' .. row .. '|' .. (id or '')
end
if waiting then
  ring()
end
write_events()
return { 'ok', now, results }
