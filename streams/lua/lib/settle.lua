-- Settlements (docs/protocol.md "Settling"): what a worker's verdict does to its entry.
-- s: [stream index, entry ID, outcome, task_id, unique, run_ms, name, delay_ms, cause, error, schedule]

-- The entry's envelope when it is still pending to this worker; nil when it was settled or moved before.
local function pending_envelope(s, worker)
  local stream, id = K.streams[s[1]], s[2]
  local pending = redis.pcall('XPENDING', stream, GROUP, id, id, 1, worker)
  if pending.err or #pending == 0 then
    return nil
  end
  local got = redis.call('XRANGE', stream, id, id)
  if #got == 0 then
    redis.call('XACK', stream, GROUP, id)
    count('ghosts', 1)
    event('Ghost', { worker = worker, entries = { { STREAM_NAMES[s[1]], id } } })
    close(s[11], s[4])
    return nil
  end
  return envelope(got[1][2])
end

local function delay(e, s, rows)
  local due = now + s[8]
  redis.call('ZADD', K.delayed, string.format('%.0f', due), e.task)
  redis.call('HSET', K.bodies, e.task, cjson.encode(flat(e)))
  rows[#rows + 1] = { e.task, s[6], s[7], due, s[9], s[10], s[3] == 'parked' and 1 or 0 }
end

local function settle_with_envelope(s, e, worker, retried, moved)
  local outcome, cause, err = s[3], s[9], s[10]
  if outcome == 'handback' then
    move_one(s[1], s[2], 'handback', worker, moved)
    redis.call('XACK', K.streams[s[1]], GROUP, s[2])
    count('handed_back', 1)
    return
  end
  if outcome == 'retry' then
    e.attempts = number(e.attempts) + 1
    remember(e, history_row('retried', worker, cause, s[2]))
    count('retried', 1)
    delay(e, s, retried)
  elseif outcome == 'parked' then
    e.handbacks = number(e.handbacks) + 1
    remember(e, history_row('parked', worker, cause, s[2]))
    count('parked', 1)
    delay(e, s, retried)
  else
    if outcome == 'failed' then
      e.attempts = number(e.attempts) + 1
      count('failed', 1)
    end
    remember(e, history_row(outcome, worker, cause, s[2]))
    bury(e, cause, err, worker, { s[6], s[7] })
  end
  -- At once: the same entry may stand in this batch a second time, and must not be pending then.
  redis.call('XACK', K.streams[s[1]], GROUP, s[2])
  acknowledge(s[1], s[2])
end

-- Acknowledges what succeeded, and deletes it before anything else can fail: an entry that is acknowledged and still
-- there would be neither open nor settled.
local function settle_succeeded(settlements)
  local done, stale, ended, keyed, scheduled = {}, 0, {}, {}, {}
  for _, s in ipairs(settlements) do
    if s[3] == 'succeeded' then
      -- The token was checked, so what is pending under this ID is pending to this incarnation.
      if redis.call('XACK', K.streams[s[1]], GROUP, s[2]) == 1 then
        local ids = ended[s[1]] or {}
        ended[s[1]] = ids
        ids[#ids + 1] = s[2]
        if s[5] ~= '' then
          keyed[#keyed + 1] = s
        end
        if s[11] and s[11] ~= '' then
          scheduled[#scheduled + 1] = s
        end
        done[#done + 1] = { s[4], s[6], s[7] }
      else
        stale = stale + 1
      end
    end
  end
  for index, ids in pairs(ended) do
    for i = 1, #ids, 500 do
      redis.call('XDEL', K.streams[index], unpack(ids, i, math.min(i + 499, #ids)))
    end
  end
  for _, s in ipairs(keyed) do
    release_unique(s[5], s[4])
  end
  for _, s in ipairs(scheduled) do
    close(s[11], s[4])
  end
  return done, stale
end

local function settle_all(settlements, worker, token)
  local done, stale = settle_succeeded(settlements)
  local retried, moved = {}, {}
  for _, s in ipairs(settlements) do
    if s[3] ~= 'succeeded' then
      local e = pending_envelope(s, worker)
      if e then
        settle_with_envelope(s, e, worker, retried, moved)
      else
        stale = stale + 1
      end
    end
  end
  write_acknowledged()
  if #done > 0 then
    count('succeeded', #done)
    event('Settled', { worker = worker, token = token, tasks = done })
  end
  if #retried > 0 then
    event('Retried', { worker = worker, token = token, tasks = retried })
  end
  if #moved > 0 then
    event_of_rows('Moved', { cause = 'handback', worker = worker, late_ms = 0 }, moved)
    ring()
  end
  count('stale', stale)
  return stale
end
