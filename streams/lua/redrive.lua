-- redrive: dead letters back to the tail of their lane; deliveries and attempts begin again, the history stays.
-- KEYS: epoch clock counters events bell unique dead streams
-- USES: ids envelope occurrence move
-- ARGV: now, entry IDs in :dead
-- Reply: for each ID [status, task_id, detail]; status ok (detail: new entry ID) | missing | foreign | exists (detail: holder of the unique key)
-- Error RECLAIMD_STATE, and nothing done, while the partition's data are being mended.
-- Cost: O(IDs)
-- A full Redis refuses it whole: the first write is an XADD.
local function redrive(id, rows)
  local got = redis.call('XRANGE', K.dead, id, id)
  if #got == 0 then
    return { 'missing', '', '' }
  end
  -- Redis completes an ID without a sequence number; only the entry's own one deletes it.
  id = got[1][1]
  local e = envelope(got[1][2])
  if not e.body or not LANES[e.lane] then
    return { 'foreign', e.task or '', '' }
  end
  if e.unique then
    local holder = redis.call('HGET', K.unique, e.unique)
    if holder and holder ~= e.task then
      return { 'exists', e.task, holder }
    end
  end
  -- The fencing token counts what is set to 0 here, so it goes on from its base.
  e.token = (tonumber(e.token) or 1) + number(e.deliveries) + number(e.attempts) + number(e.handbacks) + 1
  e.deliveries, e.attempts, e.handbacks = nil, nil, nil
  remember(e, history_row('redriven', '', e.cause, id))
  local new_id = redis.call('XADD', K.streams[LANES[e.lane]], '*', unpack(flat(e)))
  if e.unique then
    redis.call('HSET', K.unique, e.unique, e.task)
  end
  redis.call('XDEL', K.dead, id)
  rows[#rows + 1] = { e.task, e.lane, new_id, id }
  return { 'ok', e.task, new_id }
end

if frozen then
  return refusal_of_state()
end
local results, rows = {}, {}
for i = 2, #ARGV do
  results[#results + 1] = redrive(ARGV[i], rows)
end
if #rows > 0 then
  count('redriven', #rows)
  event('Redriven', { tasks = rows })
  ring()
end
write_events()
return results
