-- promote: delayed tasks that are due go to the tail of their lane (suspects to theirs).
-- KEYS: epoch clock counters events bell unique dead delayed bodies fired queued streams
-- USES: ids envelope occurrence move
-- ARGV: now, limit
-- Reply: promoted, next due (wall ms, or 0), 1 if it stopped at the limit or at about 256 KiB, state: neither ok nor absent forbids it
-- Cost: O(promoted · log delayed)
local BYTES_A_CALL = 262144

if frozen then
  return { 0, '0', 0, state }
end
allow_at_maxmemory()
local rows, bytes, taken = {}, 0, 0
local due = redis.call('ZRANGEBYSCORE', K.delayed, '-inf', now_text, 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #due, 2 do
  if bytes >= BYTES_A_CALL then
    break
  end
  taken = taken + 1
  local task = due[i]
  local body = redis.call('HGET', K.bodies, task)
  bytes = bytes + #(body or '')
  local e = body and stored_envelope(body)
  if body and not e then
    bury_unreadable('delayed', task, body)
    close(schedule_of(task), task)
  elseif body then
    local index = place(e)
    local id = redis.call('XADD', K.streams[index], '*', unpack(flat(e)))
    rows[#rows + 1] = { task, e.lane, id, math.max(0, now - due[i + 1]) }
  else
    event('Ghost', { worker = '', entries = { { 'delayed', task } } })
    count('ghosts', 1)
    close(schedule_of(task), task)
  end
  redis.call('ZREM', K.delayed, task)
  redis.call('HDEL', K.bodies, task)
end
if #rows > 0 then
  count('promoted', #rows)
  event('Promoted', { tasks = rows })
  ring()
end
write_events()
local following = redis.call('ZRANGEBYSCORE', K.delayed, '-inf', '(+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return { #rows, following[2] or '0', (taken < #due / 2 or taken >= tonumber(ARGV[2])) and 1 or 0, state }
