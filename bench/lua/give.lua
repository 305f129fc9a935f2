-- KEYS: stream; ARGV: count, entries a read, consumer, consumer, …
local left, i = tonumber(ARGV[1]), 3
while left > 0 do
  local got = redis.call('XREADGROUP', 'GROUP', 'workers', ARGV[i], 'COUNT', math.min(left, tonumber(ARGV[2])), 'STREAMS', KEYS[1], '>')
  if not got then
    return left
  end
  left = left - #got[1][2]
  i = i < #ARGV and i + 1 or 3
end
return 0
