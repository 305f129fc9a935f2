-- An entry's way to another stream: the one routine by which a task comes back, and the one by which it is buried.
local SUSPECT_FROM = 2
local WITHOUT_VERDICT = { lease_expired = true, takeover = true, released = true, unknown = true }

local to_delete = {}

local function acknowledge_and_delete(index, ids)
  redis.call('XACK', K.streams[index], GROUP, unpack(ids))
  redis.call('XDEL', K.streams[index], unpack(ids))
end

local function acknowledge(index, id)
  local ids = to_delete[index]
  if not ids then
    ids = {}
    to_delete[index] = ids
  end
  local n = #ids + 1
  ids[n] = id
  if n >= 500 then
    acknowledge_and_delete(index, ids)
    to_delete[index] = nil
  end
end

local function write_acknowledged()
  for index, ids in pairs(to_delete) do
    acknowledge_and_delete(index, ids)
  end
  to_delete = {}
end

local function release_unique(key, task)
  if key and key ~= '' and redis.call('HGET', K.unique, key) == task then
    redis.call('HDEL', K.unique, key)
  end
end

-- run: {run_ms, name} of the handler whose verdict this is, or nil.
local function bury(e, cause, err, worker, run)
  local f = flat(e)
  for _, value in ipairs({ 'cause', cause, 'error', err, 'worker', worker, 'dead_at', now_text }) do
    f[#f + 1] = value
  end
  local id = redis.call('XADD', K.dead, '*', unpack(f))
  release_unique(e.unique, e.task)
  count('dead', 1)
  count('dead:' .. cause, 1)
  event('Died', { worker = worker, tasks = { { e.task, id, cause, err, run and run[1] or -1, run and run[2] or '' } } })
  close(e.schedule, e.task)
end

-- Keeps every field. More fields than `unpack` can take travel as one JSON array.
local function bury_foreign(index, id, f, worker)
  local task = 'foreign:' .. STREAM_NAMES[index] .. ':' .. id
  local reason = 'not an entry of the protocol'
  local out = { 'task', task, 'cause', 'foreign', 'error', reason, 'worker', worker, 'dead_at', now_text }
  if #f <= 2000 then
    for i = 1, #f, 2 do
      out[#out + 1] = 'x:' .. f[i]
      out[#out + 1] = f[i + 1]
    end
  else
    out[#out + 1] = 'x'
    out[#out + 1] = cjson.encode(f)
  end
  local target = redis.call('XADD', K.dead, '*', unpack(out))
  count('dead', 1)
  count('dead:foreign', 1)
  event('Died', { worker = worker, tasks = { { task, target, 'foreign', reason, -1, '' } } })
  local e = envelope(f)
  close(e.schedule, e.task)
  acknowledge(index, id)
end

local function place(e)
  local index = LANES[e.lane]
  if number(e.deliveries) >= SUSPECT_FROM then
    index = SUSPECT
  end
  return index
end

local returns = {}

-- The history row of a return, up to the entry ID: the same for all entries that a script brings back from one worker.
local function row_of_return(what, worker, cause)
  local rows = returns[worker]
  if not rows then
    rows = {}
    returns[worker] = rows
  end
  if not rows[cause] then
    rows[cause] = string.sub(history_row(what, worker, cause, ''), 1, -3)
  end
  return rows[cause]
end

local TO = {}
for i, name in ipairs(STREAM_NAMES) do
  TO[i] = '","' .. name .. '","'
end

-- Task IDs and entry IDs need no escaping in JSON.
local function moved_row(task, target, new_id, deliveries, handbacks, id)
  return '["' .. task .. TO[target] .. new_id .. '",' .. deliveries .. ',' .. handbacks .. ',"' .. id .. '"]'
end

-- The first return of an entry as its producer wrote it: the same as below without taking it apart.
local function move_first_time(index, id, f, cause, worker, rows)
  local target = LANES[f[6]] - 1
  local new_id
  if WITHOUT_VERDICT[cause] then
    new_id = redis.call('XADD', K.streams[target], '*', 'task', f[2], 'at', f[4], 'lane', f[6], 'max', f[8], 'deliveries', '1',
      'history', row_of_return('reclaimed', worker, cause) .. id .. '"]', 'body', f[10])
    rows[#rows + 1] = moved_row(f[2], target, new_id, '1', '0', id)
  else
    new_id = redis.call('XADD', K.streams[target], '*', 'task', f[2], 'at', f[4], 'lane', f[6], 'max', f[8], 'handbacks', '1',
      'history', row_of_return('handed back', worker, cause) .. id .. '"]', 'body', f[10])
    rows[#rows + 1] = moved_row(f[2], target, new_id, '0', '1', id)
  end
  acknowledge(index, id)
  return #f[10]
end

-- Brings the pending entry `id` of K.streams[index] back. `f`: its fields, or false when only its pending row exists.
-- `rows` collects the rows of the Moved event, as JSON. Returns the bytes that it moved, or nil for a ghost.
local function move(index, id, f, cause, worker, rows)
  if not f then
    redis.call('XACK', K.streams[index], GROUP, id)
    count('ghosts', 1)
    event('Ghost', { worker = worker, entries = { { STREAM_NAMES[index], id } } })
    return nil
  end
  if not is_whole(f) then
    bury_foreign(index, id, f, worker)
    return #(f[#f] or '')
  end
  if #f == 10 and ((tonumber(f[8]) or 0) > 1 or not WITHOUT_VERDICT[cause]) then
    return move_first_time(index, id, f, cause, worker, rows)
  end
  local e = envelope(f)
  if WITHOUT_VERDICT[cause] then
    e.deliveries = number(e.deliveries) + 1
    remember(e, row_of_return('reclaimed', worker, cause) .. id .. '"]')
    if e.deliveries >= (tonumber(e.max) or 1) then
      bury(e, 'max_deliveries', 'came back ' .. e.deliveries .. ' times without a verdict, last: ' .. cause, worker)
      acknowledge(index, id)
      return #e.body
    end
  else
    e.handbacks = number(e.handbacks) + 1
    remember(e, row_of_return('handed back', worker, cause) .. id .. '"]')
  end
  local target = place(e)
  if target ~= SUSPECT then
    target = target - 1
  end
  local new_id = redis.call('XADD', K.streams[target], '*', unpack(flat(e)))
  rows[#rows + 1] = moved_row(e.task, target, new_id, number(e.deliveries), number(e.handbacks), id)
  acknowledge(index, id)
  return #e.body
end

local function move_one(index, id, cause, worker, rows)
  local got = redis.call('XRANGE', K.streams[index], id, id)
  return move(index, id, got[1] and got[1][2], cause, worker, rows)
end
