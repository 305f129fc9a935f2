-- enqueue: add tasks to their lanes, or to the delayed ones; one result each.
-- KEYS: epoch clock counters events bell unique delayed bodies seen_even seen_odd accepted streams
-- USES: clock seen
-- ARGV: now, id of the epoch if there is none, then for each task: task_id, lane, max_deliveries, unique, schedule, delay ms, body
-- Reply: for each task [status, task_id, entry_id]; status ok | duplicate | exists (then task_id is the holder's)
-- Cost: O(tasks)
-- A full Redis refuses it whole: every write before the first XADD may grow memory too.
local LANE_INDEX = { high = 3, normal = 5, low = 7 }

-- All or nothing: what a worker would bury as foreign is refused before anything is written.
for i = 3, #ARGV, 7 do
  if not LANE_INDEX[ARGV[i + 1]] or #ARGV[i] > 128 or not string.find(ARGV[i], '^[%w._:-]+$')
    or not string.find(ARGV[i + 2], '^[1-9]%d?%d?%d?$') then
    return redis.error_reply('RECLAIMD_TASK bad task_id, lane or max_deliveries in task ' .. (i + 4) / 7)
  end
  if ARGV[i + 3] == SENTINEL then
    return redis.error_reply('RECLAIMD_TASK the unique key ' .. SENTINEL .. ' is not for tasks, in task ' .. (i + 4) / 7)
  end
end

if state == 'absent' then
  begin_epoch(ARGV[2])
end
tick()
local seen_now, seen_before = seen_sets()

-- While tasks are restored, whatever is accepted is not restored, and whatever was is a duplicate.
local rebuilding = state == 'rebuilding'

local function enqueue(task, lane, max, unique, schedule, delay, body)
  if redis.call('SISMEMBER', seen_before, task) == 1 or redis.call('SISMEMBER', seen_now, task) == 1
    or redis.call('HEXISTS', K.bodies, task) == 1 or (rebuilding and redis.call('SISMEMBER', K.accepted, task) == 1) then
    return { 'duplicate', task, '' }
  end
  local holder = unique ~= '' and redis.call('HGET', K.unique, unique)
  if holder then
    return { 'exists', holder, '' }
  end
  local fields = { 'task', task, 'at', now_text, 'lane', lane, 'max', max }
  if unique ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 'unique', unique
  end
  if schedule ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 'schedule', schedule
  end
  fields[#fields + 1], fields[#fields + 2] = 'body', body
  local id, due = '', 0
  if delay ~= '0' then
    due = now + delay
    redis.call('ZADD', K.delayed, due, task)
    redis.call('HSET', K.bodies, task, cjson.encode(fields))
  else
    id = redis.call('XADD', K.streams[LANE_INDEX[lane]], '*', unpack(fields))
  end
  redis.call('SADD', seen_now, task)
  if rebuilding then
    redis.call('SADD', K.accepted, task)
  end
  if unique ~= '' then
    redis.call('HSET', K.unique, unique, task)
  end
  return { 'ok', task, id }, { task, lane, id, due }
end

local results, rows, totals, waiting = {}, {}, { ok = 0, duplicate = 0, exists = 0 }, false
for i = 3, #ARGV, 7 do
  local result, row = enqueue(unpack(ARGV, i, i + 6))
  results[#results + 1] = result
  totals[result[1]] = totals[result[1]] + 1
  if row then
    rows[#rows + 1] = row
    waiting = waiting or row[4] == 0
  end
end
if #rows > 0 then
  event('Enqueued', { tasks = rows })
end
if waiting then
  ring()
end
count('enqueued', totals.ok)
count('duplicates', totals.duplicate)
count('exists', totals.exists)
write_events()
return results
