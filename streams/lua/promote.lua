-- promote: delayed tasks that are due go to the tail of their lane (suspects to theirs).
-- KEYS: epoch clock counters events bell unique dead delayed bodies streams
-- USES: move
-- ARGV: now, limit
-- Reply: promoted, next due (wall ms, or 0)
-- Cost: O(promoted · log delayed)
allow_at_maxmemory()
local rows = {}
local due = redis.call('ZRANGEBYSCORE', K.delayed, '-inf', now_text, 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #due, 2 do
  local task = due[i]
  local body = redis.call('HGET', K.bodies, task)
  if body then
    local e = envelope(cjson.decode(body))
    local index = place(e)
    local id = redis.call('XADD', K.streams[index], '*', unpack(flat(e)))
    rows[#rows + 1] = { task, e.lane, id, math.max(0, now - due[i + 1]) }
  else
    event('Ghost', { worker = '', entries = { { 'delayed', task } } })
    count('ghosts', 1)
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
local following = redis.call('ZRANGE', K.delayed, 0, 0, 'WITHSCORES')
return { #rows, following[2] or '0' }
