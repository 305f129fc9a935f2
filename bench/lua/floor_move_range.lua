-- The floor under a reclaim: each dead consumer's entries to another stream, read with XRANGE, unchanged and unordered.
-- KEYS: stream, target; ARGV: batch, consumer, consumer, …
local moved = 0
for c = 2, #ARGV do
  while true do
    local rows = redis.call('XPENDING', KEYS[1], 'workers', '-', '+', ARGV[1], ARGV[c])
    if #rows == 0 then
      break
    end
    local ids = {}
    for i, row in ipairs(rows) do
      ids[i] = row[1]
      redis.call('XADD', KEYS[2], '*', unpack(redis.call('XRANGE', KEYS[1], row[1], row[1])[1][2]))
    end
    redis.call('XACK', KEYS[1], 'workers', unpack(ids))
    redis.call('XDEL', KEYS[1], unpack(ids))
    moved = moved + #ids
  end
end
return moved
