-- retire: schedules that were removed or live in another queue now fire here no more; what was queued of them is dropped.
-- KEYS: epoch clock counters events bell dead fired queued
-- USES: envelope ids occurrence
-- ARGV: now, then for each schedule: its name, the generation from which on it may fire again
-- Reply: ok rows, each the row as it was before, like those of :fired | state <state>
-- Cost: O(schedules), about 20 µs each: callers send 200 at most
for i = 2, #ARGV, 2 do
  if not string.find(ARGV[i], '^[%w._-]+$') or not string.find(ARGV[i + 1] or '', '^%d+%-%d+$') then
    return redis.error_reply('RECLAIMD_SCHEDULE bad name or generation in row ' .. i / 2)
  end
end
if state ~= 'ok' then
  return { 'state', state }
end
-- Of another type they would be an error in the middle.
redis.call('HLEN', K.fired)
redis.call('HLEN', K.queued)
redis.call('HLEN', K.counters)
redis.call('XLEN', K.events)
redis.call('XLEN', K.dead)
allow_at_maxmemory()

local function drop_queued(schedule)
  local kept = redis.call('HGET', K.queued, schedule)
  if not kept then
    return
  end
  local e = stored_envelope(kept)
  if e then
    local generation, nominal = occurrence_of(e.task)
    tell_skipped(schedule, generation, string.format('%.0f', math.max(0, nominal - 1)), nominal, 1, 'removed')
  else
    bury_unreadable('queued', schedule, kept)
  end
  redis.call('HDEL', K.queued, schedule)
end

local before = {}
for i = 2, #ARGV, 2 do
  local schedule, generation = ARGV[i], ARGV[i + 1]
  local row = fired_row(redis.call('HGET', K.fired, schedule)) or fired_row(false)
  before[#before + 1] = row_text(row)
  if id_before(row.generation, generation) then
    row.generation = generation
    write_row(schedule, row)
    tell('OccurrenceRetired', schedule, generation, row.last .. ',' .. row.count .. ',' .. cjson.encode(row.open))
    drop_queued(schedule)
  end
end
write_events()
return { 'ok', before }
