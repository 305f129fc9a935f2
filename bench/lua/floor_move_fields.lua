-- The same as floor_move_claim, but each entry gets the two fields that the protocol adds to a task that comes back.
-- KEYS: stream, target; ARGV: batch, consumer, consumer, …
local moved = 0
for c = 2, #ARGV do
  local history = '[1750000000000,"reclaimed","' .. ARGV[c] .. '","lease_expired","'
  while true do
    local rows = redis.call('XPENDING', KEYS[1], 'workers', '-', '+', ARGV[1], ARGV[c])
    if #rows == 0 then
      break
    end
    local ids = {}
    for i, row in ipairs(rows) do
      ids[i] = row[1]
    end
    for _, entry in ipairs(redis.call('XCLAIM', KEYS[1], 'workers', 'floor', 0, unpack(ids))) do
      local f = entry[2]
      redis.call('XADD', KEYS[2], '*', f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8],
        'deliveries', '1', 'history', history .. entry[1] .. '"]', f[9], f[10])
    end
    redis.call('XACK', KEYS[1], 'workers', unpack(ids))
    redis.call('XDEL', KEYS[1], unpack(ids))
    moved = moved + #ids
  end
end
return moved
