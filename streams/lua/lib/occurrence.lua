-- Occurrences of schedules (docs/protocol.md "Schedules"): the row of each schedule, what is told of them, and closing.
local NO_GENERATION = '0-0'

-- The row of a schedule that has none is a fresh one; nil for one that cannot be read.
local function fired_row(text)
  if not text then
    return { generation = NO_GENERATION, last = '0', count = '0', open = '' }
  end
  local generation, last, fired, open = string.match(text, '^(%d+%-%d+)|(%d+)|(%d+)|([^|]*)$')
  return generation and { generation = generation, last = last, count = fired, open = open }
end

local function row_text(row)
  return row.generation .. '|' .. row.last .. '|' .. row.count .. '|' .. row.open
end

-- Returns the text of the row.
local function write_row(schedule, row)
  local text = row_text(row)
  redis.call('HSET', K.fired, schedule, text)
  return text
end

-- Rows of one event of each kind a call, as JSON text: nothing in them needs escaping. Instants are text or whole numbers.
local told = { OccurrenceFired = {}, OccurrenceQueued = {}, OccurrenceSkipped = {}, OccurrenceRetired = {}, OccurrenceClosed = {} }
local COLUMN = { OccurrenceSkipped = 'occurrences', OccurrenceRetired = 'schedules', OccurrenceClosed = 'schedules' }

local function tell(kind, schedule, generation, rest)
  local rows = told[kind]
  rows[#rows + 1] = '["' .. schedule .. '","' .. generation .. '",' .. rest .. ']'
end

-- queued: 1 when it has waited for its predecessor. One concatenation costs a third of a format.
local function tell_fired(schedule, generation, nominal, task, id, late, queued)
  local rows = told.OccurrenceFired
  rows[#rows + 1] = '["' .. schedule .. '","' .. generation .. '",' .. nominal .. ',"' .. task .. '","' .. id .. '",'
    .. (late > 0 and late or 0) .. ',' .. queued .. ']'
end

local function tell_skipped(schedule, generation, from, to, n, reason)
  tell('OccurrenceSkipped', schedule, generation, from .. ',' .. to .. ',' .. n .. ',"' .. reason .. '"')
  count('occurrences:skipped:' .. reason, math.max(1, n))
end

endings[#endings + 1] = function()
  local n = #told.OccurrenceFired
  count('occurrences:fired', n)
  count('enqueued', n)
  count('occurrences:queued', #told.OccurrenceQueued)
  for kind, rows in pairs(told) do
    if #rows > 0 then
      event_of_rows(kind, {}, rows, COLUMN[kind])
      told[kind] = {}
    end
  end
end

-- Of a task that an occurrence made: its ID begins with it. Nil for any other.
local function schedule_of(task)
  return string.match(task, '^([%w._-]+):%d+%-%d+:%d+$')
end

local function occurrence_of(task)
  local generation, nominal = string.match(task, ':(%d+%-%d+):(%d+)$')
  return generation or '', nominal or '0'
end

-- The open task of a schedule has ended: whatever waited for that goes to its lane and is the open one. Reads go on where a key
-- is of another type, because what ended has been settled already.
local function close(schedule, task)
  local text = schedule and schedule ~= '' and redis.pcall('HGET', K.fired, schedule)
  local row = type(text) == 'string' and fired_row(text)
  if not row or row.open ~= task or not string.find(schedule, '^[%w._-]+$') then
    return
  end
  local kept = redis.pcall('HGET', K.queued, schedule)
  kept = type(kept) == 'string' and kept
  local e = kept and stored_envelope(kept)
  row.open = ''
  if e then
    e.at, row.open = now_text, e.task
    local id = redis.call('XADD', K.streams[LANES[e.lane]], '*', unpack(flat(e)))
    local generation, nominal = occurrence_of(e.task)
    tell_fired(schedule, generation, nominal, e.task, id, now - nominal, 1)
    ring()
  else
    if kept then
      bury_unreadable('queued', schedule, kept)
    end
    tell('OccurrenceClosed', schedule, row.generation, cjson.encode(task))
  end
  write_row(schedule, row)
  if kept then
    redis.call('HDEL', K.queued, schedule)
  end
end
