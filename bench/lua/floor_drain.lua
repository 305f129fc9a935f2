-- The floor under a drain: read, acknowledge and delete, and nothing else. KEYS: stream; ARGV: entries a read
local done = 0
while true do
  local got = redis.call('XREADGROUP', 'GROUP', 'workers', 'floor', 'COUNT', ARGV[1], 'STREAMS', KEYS[1], '>')
  if not got then
    return done
  end
  local ids = {}
  for i, entry in ipairs(got[1][2]) do
    ids[i] = entry[1]
  end
  redis.call('XACK', KEYS[1], 'workers', unpack(ids))
  redis.call('XDEL', KEYS[1], unpack(ids))
  done = done + #ids
end
